"""From rows to batches: our input pipeline against LLaMA-Factory's, for the same backbone, videos and sentences, on the CPU.

`python benchmarks/input_pipeline.py [--size tiny|100m|7b] [--out figures.json]` makes clips, rows about copies of them, and a
Qwen3-VL checkpoint without weights. Each side tokenises the rows, then reads batches of one row through torch's own loader
with 0, 1 and 2 worker processes, by LLaMA-Factory's functions: its collator over its own template, ours over ours, and ours
with `frame_cache_dir`, first empty and then filled by the first. Sides take turns, each in a process of its own; the model,
which both collators ask for positions, stays without weights. Both see the same number of frames, spread evenly over the
clip, of the same size. The table has tokenised rows and samples per second, medians of the turns; then each side reads
`--long` samples with two workers, and memory without mapped files is that of the last fifth over that of the second.

`--size` decides frames, pixels and clip: tiny 12 frames of 48 x 48; 100m 64 of 384 x 384 and 7b 64 of 448 x 448, of 60 seconds.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import av
from gpu.shape_100m import SHAPE_100M
from gpu.shapes import SHAPES, write_checkpoint
from loaders import Watched, copies, recipe, watch, write_rows
from reader import encode, repeat

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.backbones.upgrade import placeholder_ids


# Frames seen, pixels along a side, height of the clip (None: the synthetic set's), shape.
SIZES = {
    "tiny": (12, 48, None, SHAPE_100M),
    "100m": (64, 384, 360, SHAPE_100M),
    "7b": (64, 448, 720, SHAPES["qwen3_vl_4b"]),
}
SECONDS, GOP = 60, 48
WORKERS = (0, 1, 2)


def pipeline(run: dict[str, Any], workers: list[int], samples: int) -> dict[str, Any]:
    """Tokenise, then read `samples` rows with each number of workers: seconds of either, and when it was."""
    import torch
    from llamafactory.hparams import get_train_args
    from llamafactory.model.loader import load_config
    from llamafactory.train.sft import workflow
    from transformers import AutoModelForImageTextToText

    torch.set_num_threads(1)
    model_args, data_args, training_args, *_ = get_train_args(run)
    parts = workflow.load_tokenizer(model_args)
    template = workflow.get_template_and_fix_tokenizer(parts["tokenizer"], data_args)
    begin = time.time()
    rows = workflow.get_dataset(template, model_args, data_args, training_args, stage="sft", **parts)["train_dataset"]
    found = {"rows": len(rows), "tokenising": time.time() - begin, "seconds": {}, "spans": {}}
    if getattr(model_args, "backbone", None):
        # What `load_model` finds out for ours before it loads the configuration.
        model_args.placeholder_ids = placeholder_ids(registry.get(model_args.backbone), parts["tokenizer"])

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(load_config(model_args))

    collator = workflow.SFTDataCollatorWith4DAttentionMask(
        template=template, model=model, attn_implementation="sdpa", compute_dtype=torch.float32, **parts
    )
    # The process itself reads last: LLaMA-Factory leaves decoders open, whose threads a fork does not take along, and a worker
    # that closes such a one waits for them for ever.
    for count in sorted(workers, reverse=True):
        loader = torch.utils.data.DataLoader(rows, batch_size=1, num_workers=count, collate_fn=collator)
        begin, taken = time.time(), 0
        for batch in loader:
            taken += 1
            if taken == samples:
                break

        end = time.time()
        assert taken == samples
        found["seconds"][str(count)] = end - begin
        found["spans"][str(count)] = begin, end
        found["tokens"] = batch["input_ids"].shape[1]
        found["pixels"] = batch["pixel_values_videos"].numel()

    return found


def write_clip(size: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A clip and a row about it."""
    from spacevllm_plugin.data.schema import Media, Target, read_rows
    from spacevllm_plugin.data.synthetic import SynthConfig, write_set
    from spacevllm_plugin.data.video import VideoRef, probe

    write_set(folder, SynthConfig(num_videos=1))
    row = next(read_rows(folder / "annotations.jsonl"))
    height = SIZES[size][2]
    if height is None:
        return folder / row.videos[0], row.model_dump(exclude_none=True)

    segment, clip = folder / "segment.mp4", folder / "clip.mp4"
    encode(segment, height, GOP)
    repeat(segment, clip, SECONDS)
    info = probe(VideoRef(str(clip)))
    timeline = info.timeline
    span = 0, timeline.num_frames // 2
    row.media = Media(width=info.width, height=info.height, fps=timeline.fps, num_frames=timeline.num_frames)
    row.target = Target(
        span_frames=span, span_seconds=timeline.span_seconds(span), frames=[0], boxes=[(0, 0, info.width / 2, 40)]
    )
    return clip, row.model_dump(exclude_none=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rows", type=int, help="rows that are tokenised (default: 2000 for tiny, else 200)")
    parser.add_argument("--videos", type=int, default=20, help="videos that they are about (default: %(default)s)")
    parser.add_argument("--samples", type=int, help="rows that are read at a time (default: 200 for tiny, else 20)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--long", type=int, default=0, help="samples of the run that looks at memory, 10000 for instance"
    )
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run, workers, samples = args.run
        print(json.dumps(pipeline(json.loads(run), json.loads(workers), int(samples))))
        return

    small = args.size == "tiny"
    rows, samples = args.rows or (2000 if small else 200), args.samples or (200 if small else 20)
    frames, side, _, shape = SIZES[args.size]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data, model = work / "data", work / "model"
        if small:
            make_tiny("qwen3_vl", model, merge_size=1)  # as LLaMA-Factory's own template wants it
        else:
            write_checkpoint(shape, model)

        (work / "clip").mkdir()
        clip, row = write_clip(args.size, work / "clip")
        with av.open(str(clip)) as container:
            seconds = float(container.streams.video[0].duration * container.streams.video[0].time_base)

        data.mkdir()
        videos = copies([clip], data / "videos", args.videos)
        write_rows(data, videos, [row], max(rows, args.long))
        # LLaMA-Factory chooses by frames a second; a little more, as it rounds down.
        common = {"video_maxlen": frames, "video_fps": frames / seconds * 1.001, "video_max_pixels": side * side}
        sides = {
            "LLaMA-Factory": ("theirs", {}),
            "ours": ("ours", {}),
            "ours, empty frame cache": ("ours", {"frame_cache_dir": str(work / "frames")}),
            "ours, filled frame cache": ("ours", {"frame_cache_dir": str(work / "frames")}),
        }

        def take(name: str, workers: list[int], most: int, count: int) -> Watched:
            side, options = sides[name]
            if name == "ours, empty frame cache" and (work / "frames").exists():
                (work / "frames").rename(work / f"frames_{time.time_ns()}")

            run = recipe(model, data, work / "out", side, max_samples=most, **common, **options)
            command = [__file__, "--run", json.dumps(run), json.dumps(workers), str(count)]
            return watch(command, work, plugin=side == "ours")

        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for _ in range(args.turns):
            for name in sides:
                taken[name].append(take(name, list(WORKERS), rows, samples).answer)

        long = {name: take(name, [2], args.long, args.long) for name in sides} if args.long else {}

    table = {}
    for name, runs in taken.items():
        rates = {str(count): [samples / run["seconds"][str(count)] for run in runs] for count in WORKERS}
        tokenising = [run["rows"] / run["tokenising"] for run in runs]
        table[name] = {
            "tokenised_rows_per_second": statistics.median(tokenising),
            "samples_per_second": {count: statistics.median(own) for count, own in rates.items()},
            "all": {"tokenised_rows_per_second": tokenising, "samples_per_second": rates},
            "tokens": runs[0]["tokens"],
            "pixel_values": runs[0]["pixels"],
        }
        if name in long:
            span = long[name].answer["spans"]["2"]
            table[name]["long"] = {
                "samples": args.long,
                "peak_mib": long[name].peak,
                "growth": long[name].growth(*span),
            }

    print(f"{args.size}: {frames} frames of {side} x {side}, {rows} rows, {samples} samples, {args.turns} turns")
    print(f"{'':26}{'tokenised':>10}" + "".join(f"{count:>6} workers" for count in WORKERS) + f"{'tokens':>9}")
    for name, found in table.items():
        rates = "".join(f"{rate:14.2f}" for rate in found["samples_per_second"].values())
        print(f"{name:26}{found['tokenised_rows_per_second']:10.0f}{rates}{found['tokens']:9}")

    for name, found in table.items():
        if "long" in found:
            own = found["long"]
            print(f"{name:26}{own['samples']} samples: {own['peak_mib']:.0f} MiB at most, growth {own['growth']:.2f}")

    if args.out:
        args.out.write_text(json.dumps({"size": args.size, "frames": frames, "side": side, **table}, indent=2))


if __name__ == "__main__":
    main()
