"""The scorer: 10,000 predictions with tubes of 200 frames, read from files and scored by the command, on one core.

`python benchmarks/scorer.py` prints seconds and peak memory (of the scoring process, from reading both files on) for
each stvg protocol; `--items`, `--frames`, `--protocol` change what is measured. The promise: under 10 s, under 1 GB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


FPS, CLIP = 25.0, 400

# Runs in a process of its own, so that the peak is that of scoring alone.
MEASURE = """
import resource, sys, time
from spacevllm_plugin.cli.main import main
start = time.perf_counter()
code = main(sys.argv[1:])
print("MEASURED", time.perf_counter() - start, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
sys.exit(code)
"""


def write_files(folder: Path, items: int, frames: int) -> tuple[Path, Path]:
    """Annotations and predictions, one box for each frame of the tube, every one of them moving."""
    rng = np.random.default_rng(0)
    paths = folder / "gt.jsonl", folder / "pred.jsonl"
    with open(paths[0], "w") as truth, open(paths[1], "w") as predicted:
        for i in range(items):
            start = int(rng.integers(0, CLIP - frames))
            corner = rng.uniform(0, 200, size=2) + np.cumsum(rng.uniform(0, 1, size=(frames, 2)), axis=0)
            boxes = np.concatenate([corner, corner + 60], axis=1).round(2)
            tube = list(range(start, start + frames))
            row = {
                "id": f"bench/{i}",
                "task": "stvg",
                "group": ("declarative", "interrogative")[i % 2],
                "query": "the man in red opens the door",
                "messages": [
                    {"role": "user", "content": "<video>When and where does this happen?"},
                    {"role": "assistant", "content": "From 1.0 to 9.0 seconds."},
                ],
                "videos": [f"{i}.mp4"],
                "media": {"width": 640, "height": 480, "fps": FPS, "num_frames": CLIP, "clip": [0, CLIP]},
                "target": {
                    "span_frames": [start, start + frames],
                    "span_seconds": [start / FPS, (start + frames) / FPS],
                    "frames": tube,
                    "boxes": boxes.tolist(),
                },
            }
            truth.write(json.dumps(row) + "\n")
            moved = (boxes + rng.uniform(-10, 10, size=4)).round(2)
            span = [max(start - 10, 0), start + frames - 10]
            answer = {"id": row["id"], "text": "From 1.0 to 9.0 seconds.", "status": "ok", "span_frames": span}
            predicted.write(json.dumps({**answer, "frames": tube, "boxes": moved.tolist()}) + "\n")

    return paths


def measure(*argv: str) -> tuple[float, float, float]:
    """Seconds, seconds of computing (less on a busy machine) and peak GiB of one command on one core."""
    if hasattr(os, "sched_setaffinity"):
        core = min(os.sched_getaffinity(0))
        one_core = {"preexec_fn": lambda: os.sched_setaffinity(0, {core})}
    else:
        one_core = {}

    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *argv], check=True, capture_output=True, text=True, **one_core
    )
    seconds, computing, peak = map(float, done.stdout.splitlines()[-1].split()[1:])
    return seconds, computing, peak


def main() -> None:
    """Write the files, score them, print."""
    from spacevllm_plugin.evaluation.protocols import PROTOCOLS

    names = [name for name, tasks in PROTOCOLS.items() if "stvg" in tasks]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--protocol", choices=names, action="append", help="default: all of them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        truth, predicted = write_files(Path(folder), args.items, args.frames)
        print(f"{args.items} items of {args.frames} frames, written in {time.perf_counter() - start:.1f} s")
        for name in args.protocol or names:
            argv = ["evaluate", "stvg", "--gt", str(truth), "--pred", str(predicted), "--protocol", name]
            seconds, computing, peak = measure(*argv)
            print(f"{name:10s} {seconds:6.2f} s, {computing:6.2f} s of it computing, {peak:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
