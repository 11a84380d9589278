"""`spacevllm-cli make-tiny`: a checkpoint to try everything with, without a download."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import CommandError, UsageError
from .outputs import check_outputs
from .quiet import loading


EXAMPLE = "spacevllm-cli make-tiny qwen3_vl --out outputs/tiny_qwen3_vl"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("backbone", metavar="BACKBONE", help="qwen3_vl, qwen2_5_vl or llava_onevision")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the checkpoint's folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights (default: 0)")
    parser.add_argument(
        "--merge-size",
        type=int,
        choices=(1, 2),
        help="qwen3_vl: patches that a visual token merges along each side (default: 2; LLaMA-Factory's own qwen3_vl "
        "template needs 1, the frames that a token merges)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the checkpoint."""
    from safetensors import SafetensorError

    from ..modeling.tiny import BACKBONES, make_tiny

    if args.backbone not in BACKBONES:
        raise UsageError(f"unknown backbone {args.backbone!r}; known: {', '.join(BACKBONES)}")

    check_outputs(folders={"--out": args.out})
    if args.merge_size and args.backbone != "qwen3_vl":
        raise UsageError("--merge-size is for qwen3_vl")

    variant = {"merge_size": args.merge_size} if args.merge_size else {}
    args.out.mkdir(parents=True, exist_ok=True)
    # A checkpoint is many files: they are moved into place when all of them are whole.
    with loading(args.verbose), TemporaryDirectory(dir=args.out, prefix=".") as folder:
        try:
            make_tiny(args.backbone, Path(folder), seed=args.seed, **variant)
        except SafetensorError as err:
            raise CommandError(f"--out: {args.out} cannot be written: {err}") from None

        for file in Path(folder).iterdir():
            file.replace(args.out / file.name)

    print(f"wrote a tiny {args.backbone} to {args.out}")
