"""Claim: however many frames a video has, queries and space decoder cost nothing beside the backbone.

`python benchmarks/frames.py [--size tiny|100m|7b] [--counts 8 … 256]` times, for each number of frames, `ground` against the
plain backbone writing the span alone (as `grounding.py`), then a training step against the plain backbone's with logits at
the supervised positions alone (as `training_step.py`, with one optimizer for all). The sides take turns; each turn of a
number of frames follows one that does not count. Where memory ends, the row says so, and the side
takes no longer videos.

The file is written anew after each number of frames: what ends the process leaves the others' figures.
"""

import gc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu.asked import write_asked
from gpu.claims import Setting, command_line, report, save, setting
from gpu.measuring import Measurement, Side, measured, rows_of, unless_out_of_memory
from gpu.sides import ground, lean_loss, plain_side, training_inputs, write
from gpu.training import adamw, step

from spacevllm_plugin.data.schema import AnnotationRow
from spacevllm_plugin.inference.engine import row_item


COUNTS = (8, 16, 32, 64, 128, 256)


class Grounding:
    """`ground` against the span alone."""

    name = "ground"

    def __init__(self, chosen: Setting, longest: int) -> None:
        self.engine = chosen.grounding(video_maxlen=longest)
        self.plain = plain_side(self.engine.model, chosen.shape.backbone)

    def sides(self, row: AnnotationRow, folder: Path) -> dict[str, Side]:
        """On a video."""
        item = row_item(self.engine, row, folder)
        return {
            "ours": partial(measured, partial(ground, self.engine, item)),
            "plain": partial(measured, partial(write, self.engine, self.plain, item)),
        }


class Training:
    """A training step against the lean one."""

    name = "training step"

    def __init__(self, chosen: Setting, longest: int) -> None:
        self.engine, self.half = chosen.trainable(video_maxlen=longest), chosen.half
        self.plain = plain_side(self.engine.model, chosen.shape.backbone)
        self.optimizer = adamw(parameter for parameter in self.engine.model.parameters() if parameter.requires_grad)

    def sides(self, row: AnnotationRow, folder: Path) -> dict[str, Side]:
        """On a video."""
        ours, plain = training_inputs(self.engine, row, row_item(self.engine, row, folder))
        losses = {"ours": lambda: self.engine.model(**ours).loss, "plain": lambda: lean_loss(self.plain, plain)}
        return {name: partial(self._measured, loss_of) for name, loss_of in losses.items()}

    def _measured(self, loss_of: Any) -> Measurement:
        return measured(partial(step, loss_of, self.optimizer, self.half))


KINDS = {"ground": Grounding, "training": Training}


def no_memory() -> None:
    """The side that has none."""


def rows_by_length(
    case: Grounding | Training, videos: dict[int, AnnotationRow], chosen: Setting
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each number of frames."""
    ended = set()
    for count, row in videos.items():
        sides = unless_out_of_memory(partial(case.sides, row, chosen.work / str(count))) or {}
        taken = chosen.turns_of(
            {name: no_memory if name in ended else sides.get(name, no_memory) for name in ("ours", "plain")}, warm=True
        )
        ended |= {name for name, own in taken.items() if not own}
        yield rows_of(taken, "plain", case=case.name, frames=count)


def main() -> None:
    """Measure and print a table."""
    parser = command_line(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="of frames, from few to many")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what to measure")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with setting(args) as chosen:
        videos = {}
        for count in args.counts:
            videos[count], *_ = write_asked(chosen.work / str(count), chosen.side, count)

        for kind in args.kinds:
            case = KINDS[kind](chosen, max(args.counts))
            for some in rows_by_length(case, videos, chosen):
                rows += some
                save(args, "frames", rows)

            del case
            gc.collect()
            torch.cuda.empty_cache()

    report(args, "frames", rows)


if __name__ == "__main__":
    main()
