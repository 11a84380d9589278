"""Claim: asking several sentences of one video costs little more than one; and what `predict` gains by it.

`python benchmarks/questions.py ground [--size tiny|100m|7b] [--sentences 8 32]` times `ground_batch` of one sentence and of
several on one video, in turns.

`python benchmarks/questions.py predict [--videos 20] [--per-video 8]` times `predict_rows` over a file of videos with some
sentences each against the same function without sharing (each row decodes, encodes and reads its video), in turns, and
compares the two files. `--per-video 1` is the case in which there is nothing to share.

Random weights of the real shapes, on the GPU if there is one.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gpu.asked import write_asked
from gpu.claims import Setting, about, command_line, report, setting
from gpu.measuring import measured, rows_of
from gpu.sides import NEW_TOKENS

from spacevllm_plugin.data.schema import AnnotationRow, PredictionRow, read_rows
from spacevllm_plugin.inference.batches import MOST_TOGETHER
from spacevllm_plugin.inference.engine import Engine, row_item
from spacevllm_plugin.inference.grounding import ground_batch
from spacevllm_plugin.inference.predictor import predict_rows
from spacevllm_plugin.modeling.grounding_model import SpaceVLLMMixin


def ground(engine: Engine, rows: list[AnnotationRow], folder: Path) -> None:
    """What `spacevllm-cli ground` does with so many `--query`s, reading the video included."""
    items = [row_item(engine, row, folder) for row in rows]
    ground_batch(engine.model, engine.prompter, items, NEW_TOKENS, MOST_TOGETHER)


def compare_ground(chosen: Setting, args: argparse.Namespace) -> None:
    """Seconds and peak memory of one sentence and of several."""
    engine, counts, data = chosen.grounding(), [1, *args.sentences], chosen.work / "data"
    if not engine.model.shares_prefixes:
        raise ValueError(f"{args.shape} shares no prefixes here")

    rows = write_asked(data, chosen.side, chosen.frames, sentences=max(counts))
    sides = {str(count): partial(measured, partial(ground, engine, rows[:count], data)) for count in counts}
    ground(engine, rows[:2], data)  # whatever is done once
    facts = {"frames": chosen.frames, "new_tokens": NEW_TOKENS, **about(engine.model)}
    found = rows_of(chosen.turns_of(sides), "1")
    report(args, "sentences on one video", [{"sentences": row.pop("side"), **row} for row in found], **facts)


@contextmanager
def sharing(engine: Engine, on: bool) -> Iterator[None]:
    """With `on` false, the room says for a while that its sentences can share neither a prefix nor the tower's features."""
    room = type(engine.model)
    prefixes, inputs = SpaceVLLMMixin.shares_prefixes, room.visual_inputs
    try:
        if not on:
            room.shares_prefixes, room.visual_inputs = False, tuple(name for name in inputs if name != "media")

        yield
    finally:
        if not on:
            room.shares_prefixes, room.visual_inputs = prefixes, inputs


def compare_predict(chosen: Setting, args: argparse.Namespace) -> None:
    """Seconds of `predict_rows` with and without sharing."""
    engine, data = chosen.grounding(), chosen.work / "data"
    rows = write_asked(data, chosen.side, chosen.frames, args.videos, args.per_video)
    files: dict[str, list[PredictionRow]] = {}
    turn = iter(range(2 * chosen.turns))

    def side(name: str) -> Any:
        out = chosen.work / f"{next(turn)}.jsonl"
        with sharing(engine, name == "shared"):
            run = measured(partial(predict_rows, engine, rows, data, out, args.batch_size, NEW_TOKENS))

        files[name] = list(read_rows(out, PredictionRow))
        return run

    taken = chosen.turns_of({name: partial(side, name) for name in ("shared", "row by row")})
    farthest = 0.0
    for a, b in zip(*files.values(), strict=True):
        assert (a.id, a.text, a.frames) == (b.id, b.text, b.frames), f"{a.id}: another answer"
        pairs = zip(a.boxes, b.boxes, strict=True)
        farthest = max(farthest, *(abs(x - y) for box, other in pairs for x, y in zip(box, other)))

    facts = {**about(engine.model), "frames": chosen.frames, "videos": args.videos, "sentences_each": args.per_video}
    report(args, "predict", rows_of(taken, "row by row"), pixels_apart=farthest, **facts)


def main() -> None:
    """Measure and print a table."""
    parser = command_line(__doc__)
    parser.add_argument("what", choices=["ground", "predict"])
    parser.add_argument("--sentences", type=int, nargs="+", default=[8, 32], help="of `ground`, beside one")
    parser.add_argument("--videos", type=int, default=20, help="of `predict`")
    parser.add_argument("--per-video", type=int, default=8, help="sentences of each of these")
    parser.add_argument("--batch-size", type=int, default=8, help="of `predict`")
    args = parser.parse_args()
    with setting(args) as chosen:
        (compare_ground if args.what == "ground" else compare_predict)(chosen, args)


if __name__ == "__main__":
    main()
