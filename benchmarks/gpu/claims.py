"""What the scripts that measure one claim each have in common: sizes, their command line, a table and its JSON."""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gpu.engines import load_for_grounding, load_for_training, training_run
from gpu.measuring import Side, take_turns, unless_out_of_memory
from gpu.report import cell, write_whole
from gpu.shape_100m import SHAPE_100M, with_vocabulary
from gpu.shapes import SHAPES, Shape, write_checkpoint
from gpu.sides import NEW_TOKENS
from spacevllm_plugin.bootstrap import install
from spacevllm_plugin.inference.engine import Engine


SIZES = ("tiny", "100m", "7b")
SIDES = {"tiny": 48, "100m": 384, "7b": 448}  # of a frame, in pixels


@dataclass(frozen=True)
class Setting:
    """What a claim is measured on.

    Attributes:
        size: One of `SIZES`.
        shape: The backbone.
        side: Pixels of a frame's side.
        frames: Of a video.
        turns: That each side takes.
        work: A folder that goes away in the end; the checkpoint lies in it.
    """

    size: str
    shape: Shape
    side: int
    frames: int
    turns: int
    work: Path

    @property
    def checkpoint(self) -> Path:
        """The checkpoint without weights."""
        return self.work / "checkpoint"

    @property
    def half(self) -> bool:
        """Whether it is computed in bf16, and trained as the recipe says; else in fp32, and in full."""
        return self.size == "7b"

    def limits(self, frames: int | None = None) -> dict[str, int]:
        """LLaMA-Factory's options for a video's frames."""
        return {"video_maxlen": frames or self.frames, "video_max_pixels": self.side**2}

    def training_run(self, **changes: Any) -> dict[str, Any]:
        """What a YAML file would say."""
        run = training_run(self.shape.backbone, self.checkpoint, in_full=not self.half, **self.limits())
        return {**run, "cutoff_len": 65536, "preprocessing_num_workers": None, **changes}

    def trainable(self, **changes: Any) -> Engine:
        """An engine to train."""
        torch.manual_seed(0)
        return load_for_training(self.training_run(**changes))

    def grounding(self, **changes: Any) -> Engine:
        """An engine to ground with."""
        torch.manual_seed(0)
        dtype = "bfloat16" if self.half else "float32"
        return load_for_grounding(self.checkpoint, dtype, NEW_TOKENS, **{**self.limits(), **changes})

    def turns_of(self, sides: dict[str, Side], warm: bool = False) -> dict[str, list]:
        """Let the sides take their turns; with `warm` each has had one that does not count."""
        sides = {name: _tolerant(side) for name, side in sides.items()}
        if warm:
            take_turns(sides, 1)

        return take_turns(sides, self.turns)


def _tolerant(side: Side) -> Side:
    return lambda: unless_out_of_memory(side)


def command_line(doc: str, frames: int = 64, turns: int = 3) -> argparse.ArgumentParser:
    """A parser with what all claims take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny", help="default: %(default)s; 7b in bf16, else fp32")
    parser.add_argument(
        "--shape", choices=SHAPES, default="qwen2_5_vl_7b", help="of `--size 7b` (default: %(default)s)"
    )
    parser.add_argument("--frames", type=int, default=frames, help="of a video (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=turns, help="of each side (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the table as JSON")
    parser.add_argument("--dry", action="store_true", help="the same path with the backbone's tiny checkpoint")
    return parser


@contextmanager
def setting(args: argparse.Namespace, vocabulary: bool = False) -> Iterator[Setting]:
    """What a command line asks for, with a checkpoint while it lasts.

    Args:
        args: Of `command_line`.
        vocabulary: Give the 100 million parameters a real embedding, too.
    """
    install()
    shape = SHAPES[args.shape] if args.size == "7b" else SHAPE_100M
    if vocabulary and shape is SHAPE_100M:
        shape = with_vocabulary(shape)

    tiny = args.dry or args.size == "tiny"
    with tempfile.TemporaryDirectory() as folder:
        chosen = Setting(args.size, shape, SIDES["tiny" if tiny else args.size], args.frames, args.turns, Path(folder))
        write_checkpoint(shape, chosen.checkpoint, tiny=tiny)
        yield chosen


def about(model: Any) -> dict[str, Any]:
    """What a table says of its model, adapters and heads included."""
    return {
        "parameters_in_millions": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6),
        "attention": model.config.get_text_config()._attn_implementation,
    }


def machine() -> dict[str, Any]:
    """What it is measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or f"cpu, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "llamafactory")},
    }


def save(args: argparse.Namespace, claim: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Write a table where `--out` says; may be called again with more rows.

    Args:
        args: Of `command_line`.
        claim: What is measured.
        rows: One dictionary each, with the same columns.
        **facts: What is said once for all.
    """
    if args.out:
        asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        found = {"claim": claim, "asked": asked, **machine(), "facts": facts, "rows": rows}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(args.out, json.dumps(found, indent=2) + "\n")


def report(args: argparse.Namespace, claim: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """`save` a table, and print it."""
    save(args, claim, rows, **facts)
    lines = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    said = "".join(f", {name.replace('_', ' ')} {cell(value)}" for name, value in facts.items())
    dry = ", dry: the figures mean nothing" * args.dry
    print(f"{claim}: size {args.size}{dry}, {machine()['device']}{said}")
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip(), flush=True)
