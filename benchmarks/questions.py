"""Asking several sentences of one video: what they cost together, and what `predict` gains.

`python benchmarks/questions.py ground [--size tiny|100m] [--sentences 8 32]` times `ground_batch` of one sentence and of
several on one video, in turns, and takes the peak memory of each count in a process of its own.

`python benchmarks/questions.py predict [--videos 20] [--per-video 8]` times `predict_rows` over a file of videos with some
sentences each against the same function without sharing (each row decodes, encodes and reads its video), in turns, and
compares the two files. `--per-video 1` is the case in which there is nothing to share.

Random weights of the real shapes, on the GPU if there is one.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu.measuring import measured
from gpu.shapes import write_checkpoint
from shape_100m import SHAPE_100M

from spacevllm_plugin.bootstrap import install
from spacevllm_plugin.data.schema import AnnotationRow, PredictionRow, read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.modeling.grounding_model import SpaceVLLMMixin


SIDES = {"tiny": 48, "100m": 384}  # of a frame, in pixels
NEW_TOKENS = 16
FORMS = ("{}", "Please: {}", "Tell me. {}", "{} Be exact.", "Look closely. {}", "{} Thank you.", "Now, {}", "Then: {}")


def write_data(folder: Path, args: argparse.Namespace, videos: int, sentences: int) -> list[AnnotationRow]:
    """Videos with some rows each; there are few shapes in a video, so the same is asked in several ways."""
    rows = write_set(folder, SynthConfig(num_videos=videos, size=SIDES[args.size], num_frames=args.frames))
    by_video: dict[str, list[AnnotationRow]] = {}
    for row in rows:
        by_video.setdefault(row.videos[0], []).append(row)

    asked = []
    for number, own in enumerate(by_video.values()):
        for i in range(sentences):
            row = own[i % len(own)].model_copy(deep=True, update={"id": f"{number}/{i}"})
            question = row.messages[0].content.removeprefix("<video>")
            row.messages[0].content = "<video>" + FORMS[i // len(own) % len(FORMS)].format(question)
            asked.append(row)

    return asked


def load(folder: Path, args: argparse.Namespace) -> Any:
    """An engine with random weights."""
    import torch

    from spacevllm_plugin.integration.engine_loader import load_engine

    torch.manual_seed(0)
    side = SIDES[args.size]
    options = {"video_maxlen": args.frames, "video_max_pixels": side * side, "infer_dtype": args.dtype}
    return load_engine(str(folder / "model"), train_from_scratch=True, **options)


def ground(engine: Any, rows: list[AnnotationRow], folder: Path) -> None:
    """What `spacevllm-cli ground` does with so many `--query`s, reading the video included."""
    from spacevllm_plugin.inference.batches import MOST_TOGETHER
    from spacevllm_plugin.inference.engine import row_item
    from spacevllm_plugin.inference.grounding import ground_batch

    items = [row_item(engine, row, folder) for row in rows]
    ground_batch(engine.model, engine.prompter, items, NEW_TOKENS, MOST_TOGETHER)


def peak(work: Path, args: argparse.Namespace, count: int, queue: "multiprocessing.Queue[float]") -> None:
    """The peak memory, in GiB, of one `ground` in this process."""
    import torch

    install()
    engine = load(work, args)
    rows = write_data(work / f"data_{count}", args, 1, count)
    taken = measured(lambda: ground(engine, rows, work / f"data_{count}"))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    queue.put(taken.peak_gib if torch.cuda.is_available() else own)


def compare_ground(work: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds and peak memory of one sentence and of several."""
    context = multiprocessing.get_context("spawn")
    counts, peaks = [1, *args.sentences], {}
    for count in counts:
        queue = context.Queue()
        process = context.Process(target=peak, args=(work, args, count, queue))
        process.start()
        peaks[count] = queue.get()
        process.join()

    engine = load(work, args)
    rows = write_data(work / "data", args, 1, max(counts))
    ground(engine, rows[:2], work / "data")  # whatever is done once
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(args.turns):
        for count in counts:
            seconds[count].append(measured(lambda: ground(engine, rows[:count], work / "data")).seconds)

    return [
        {
            "case": f"{count} sentences on one video" if count > 1 else "one sentence",
            "seconds": statistics.median(seconds[count]),
            "spread": max(seconds[count]) - min(seconds[count]),
            "ratio": statistics.median(seconds[count]) / statistics.median(seconds[1]),
            "peak_gib": peaks[count],
            "peak_ratio": peaks[count] / peaks[1],
        }
        for count in counts
    ]


@contextmanager
def sharing(engine: Any, on: bool) -> Iterator[None]:
    """With `on` false, the room says for a while that its sentences cannot share a prefix."""
    room, able = type(engine.model), SpaceVLLMMixin.shares_prefixes
    try:
        if not on:
            room.shares_prefixes = False

        yield
    finally:
        if not on:
            room.shares_prefixes = able


def compare_predict(work: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of `predict_rows` with and without sharing."""
    from spacevllm_plugin.inference.predictor import predict_rows

    engine = load(work, args)
    rows = write_data(work / "data", args, args.videos, args.per_video)
    seconds: dict[str, list[float]] = {"shared": [], "row by row": []}
    files: dict[str, list[PredictionRow]] = {}
    for turn in range(args.turns):
        for name, taken in seconds.items():
            out = work / f"{name}_{turn}.jsonl"
            with sharing(engine, name == "shared"):
                run = measured(lambda: predict_rows(engine, rows, work / "data", out, args.batch_size, NEW_TOKENS))

            taken.append(run.seconds)
            files[name] = list(read_rows(out, PredictionRow))

    farthest = 0.0
    for a, b in zip(*files.values(), strict=True):
        assert (a.id, a.text, a.frames) == (b.id, b.text, b.frames), f"{a.id}: another answer"
        pairs = zip(a.boxes, b.boxes, strict=True)
        farthest = max(farthest, *(abs(x - y) for box, other in pairs for x, y in zip(box, other)))

    apart = statistics.median(seconds["row by row"])
    return [
        {
            "case": f"predict, {args.videos} videos with {args.per_video} sentences each, {name}",
            "seconds": statistics.median(taken),
            "spread": max(taken) - min(taken),
            "ratio": statistics.median(taken) / apart,
            "pixels_apart": farthest,
        }
        for name, taken in seconds.items()
    ]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ground", "predict"])
    parser.add_argument("--size", choices=SIDES, default="tiny")
    parser.add_argument("--dtype", default="float32", help="of the weights")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sentences", type=int, nargs="+", default=[8, 32], help="of `ground`, beside one")
    parser.add_argument("--videos", type=int, default=20, help="of `predict`")
    parser.add_argument("--per-video", type=int, default=8, help="sentences of each of these")
    parser.add_argument("--batch-size", type=int, default=8, help="of `predict`")
    parser.add_argument("--out", type=Path, help="the table as JSON")
    args = parser.parse_args()
    install()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_checkpoint(SHAPE_100M, work / "model", tiny=args.size == "tiny")
        table = (compare_ground if args.what == "ground" else compare_predict)(work, args)

    for row in table:
        print("  ".join(f"{name} {value:.3f}" if isinstance(value, float) else value for name, value in row.items()))

    if args.out:
        args.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
