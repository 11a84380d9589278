"""What the tests of the builder share: rows, a server process, colour as a detector."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from spacevllm_plugin.unistg.rows import Annotated, AnnotatedFrame, Detection, Refined


def vtg(row_id, query="the man that runs", span=(0, 100), fps=25.0, num_frames=500, video="v.mp4", size=(640, 360)):
    """A vtg annotation row."""
    seconds = [frame / fps for frame in span]
    return {
        "id": row_id,
        "task": "vtg",
        "query": query,
        "messages": [
            {"role": "user", "content": f"<video>When: {query}?"},
            {"role": "assistant", "content": f"From {seconds[0]:.1f} to {seconds[1]:.1f} seconds."},
        ],
        "videos": [video],
        "media": {"width": size[0], "height": size[1], "fps": fps, "num_frames": num_frames},
        "target": {"span_frames": list(span), "span_seconds": seconds},
    }


def frame(number, *boxes, fps=25.0, subject=None):
    """An annotated frame; a box is (label, score, x1, y1, x2, y2)."""
    return AnnotatedFrame(
        frame=number,
        seconds=(number / fps, (number + 1) / fps),
        detections=[Detection(label=box[0], score=box[1], box=box[2:]) for box in boxes],
        subject=subject,
    )


def annotated(row_id, frames, **row):
    return Annotated(id=row_id, source=vtg(row_id, **row), objects=["man", "door"], frames=frames)


def refined(row_id, frames, **row):
    span = (frames[0].frame, frames[-1].frame + 1)
    seconds = (frames[0].seconds[0], frames[-1].seconds[1])
    return Refined(**dict(annotated(row_id, frames, **row)), span_frames=span, span_seconds=seconds)


def write_lines(path, rows):
    """Rows, or lines of text, as a file."""
    lines = [
        row if isinstance(row, str) else row.model_dump_json() if hasattr(row, "id") else json.dumps(row)
        for row in rows
    ]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rejected(out):
    """id -> reason, from the rejects beside OUT."""
    return {row["id"]: row["reason"] for row in read_lines(out.with_name(out.name + ".rejects.jsonl"))}


class Server:
    """A running `unistg_server.py`."""

    def __init__(self, port, process):
        self.url, self.process = f"http://127.0.0.1:{port}/v1", process

    def seen(self):
        return httpx.get(self.url.removesuffix("/v1") + "/seen", trust_env=False).json()


@contextmanager
def server(*options):
    """A server process that is up."""
    script = Path(__file__).with_name("unistg_server.py")
    process = subprocess.Popen([sys.executable, str(script), *options], stdout=subprocess.PIPE, text=True)
    try:
        running = Server(int(process.stdout.readline()), process)
        for _ in range(100):
            try:
                running.seen()
                break
            except httpx.TransportError:
                time.sleep(0.2)

        yield running
    finally:
        process.kill()
        process.wait()


class ColourDetector:
    """Finds shapes of the synthetic set by the colour that a phrase begins with: the hull of its pixels."""

    colours = {"red": (230, 30, 30), "green": (30, 200, 30), "blue": (50, 70, 255)}
    colours |= {"yellow": (240, 230, 30), "purple": (190, 40, 220), "cyan": (30, 220, 230)}

    def __init__(self):
        self.batches = []

    def detect(self, images, phrases):
        self.batches.append(len(images))
        return [
            [d for label, phrase in enumerate(phrases) if (d := self._find(image, label, phrase))] for image in images
        ]

    def _find(self, image, label, phrase):
        colour = np.array(self.colours[phrase.split()[0]])
        ys, xs = np.nonzero(np.abs(np.asarray(image).astype(int) - colour).sum(-1) < 60)
        if not len(xs):
            return None

        return Detection(label=label, score=0.9, box=(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
