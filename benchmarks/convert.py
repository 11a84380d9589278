"""Does conversion stay flat? 100,000 VidSTG-shaped sentences: peak memory, and the time of the first and last rows.

`python benchmarks/convert.py` writes the raw files (VidSTG's list; VidOR's boxes of 1,000 videos) into a temporary folder,
converts them, and prints the peak resident memory before and after, and milliseconds of processor time (other processes do not
count) per row of the first and the last 10,000 rows.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from spacevllm_plugin.converters import SOURCES, convert


FRAMES = 300
SPAN = 60
PART = 10_000


def write_raw(folder: Path, sentences: int, videos: int) -> None:
    """Two sentences for each entry; the entries of a video stand together, as in VidSTG."""
    rng = random.Random(0)
    entries = sentences // 2
    with open(folder / "train_annotations.json", "w", encoding="utf-8") as file:
        for number in range(entries):
            begin = rng.randrange(FRAMES - SPAN)
            entry = {
                "vid": str(number * videos // entries),
                "frame_count": FRAMES,
                "fps": 29.97,
                "width": 640,
                "height": 360,
                "subject/objects": [{"tid": 0, "category": "adult"}, {"tid": 1, "category": "dog"}],
                "used_segment": {"begin_fid": 0, "end_fid": FRAMES - 1},
                "used_relation": {"subject_tid": 0, "object_tid": 1, "predicate": f"watch{number}"},
                "temporal_gt": {"begin_fid": begin, "end_fid": begin + SPAN},
                "captions": [{"description": f"an adult watches dog {number}.", "type": "person", "target_id": 0}],
                "questions": [{"description": f"what is watched {number}?", "type": "object", "target_id": 1}],
            }
            file.write(("[" if number == 0 else ",") + json.dumps(entry))

        file.write("]")

    (folder / "vidor").mkdir()
    for video in range(videos):
        trajectories = [
            [
                {
                    "tid": tid,
                    "bbox": {"xmin": x, "ymin": 9, "xmax": x + 90, "ymax": 200},
                    "generated": 0,
                    "tracker": "none",
                }
                for tid, x in ((0, frame), (1, frame + 100))
            ]
            for frame in range(FRAMES)
        ]
        text = json.dumps({"video_path": f"0/{video}.mp4", "trajectories": trajectories})
        (folder / f"vidor/{video}.json").write_text(text)


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Write, convert, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--videos", type=int, default=1000, help="default: %(default)s")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_raw(folder, args.sentences, args.videos)
        moments = []

        class Timed(SOURCES["vidstg"]):
            def samples(self, report):
                for number, sample in enumerate(super().samples(report)):
                    if number % PART == 0:
                        moments.append((time.process_time(), peak_mib()))

                    yield sample

        before = peak_mib()
        source = Timed(annotations=folder / "train_annotations.json", boxes=folder / "vidor", split="train")
        report = convert(source, folder / "train.jsonl")
        moments.append((time.process_time(), peak_mib()))
        raw = (folder / "train_annotations.json").stat().st_size / 2**20
        written = (folder / "train.jsonl").stat().st_size / 2**20

    parts = [1e3 * (b[0] - a[0]) / PART for a, b in zip(moments, moments[1:])]
    print(f"{report.kept} rows of {SPAN} boxes; {raw:.0f} MiB read, {written:.0f} MiB written")
    print(
        f"peak memory: {before:.0f} MiB before, {moments[1][1]:.0f} after {PART} rows, {moments[-1][1]:.0f} at the end"
    )
    print(f"processor time per row: first {PART} {parts[0]:.3f} ms, last {PART} {parts[-1]:.3f} ms")


if __name__ == "__main__":
    main()
