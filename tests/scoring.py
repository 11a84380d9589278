"""Rows to score by hand: 10 frames a second, boxes of 20 x 20 pixels in frames of 100 x 50."""

import math

import pytest

from spacevllm_plugin.data.schema import AnnotationRow, PredictionRow
from spacevllm_plugin.evaluation import evaluate


NAN, INF = float("nan"), float("inf")
FPS = 10.0
BOX = (10.0, 10.0, 30.0, 30.0)  # 20 x 20 pixels
SHIFTED = (20.0, 10.0, 40.0, 30.0)  # IoU with BOX: 10 * 20 / (400 + 400 - 200) = 1/3


def stvg(span=(2, 6), frames=None, boxes=None, id="a", group=None, num_frames=10, clip=None, fps=FPS, video="v.mp4"):
    start, end = span
    frames = list(range(start, end)) if frames is None else frames
    return AnnotationRow(
        id=id,
        task="stvg",
        group=group,
        messages=[{"role": "user", "content": "<video>who?"}],
        videos=[video],
        media={"width": 100, "height": 50, "fps": fps, "num_frames": num_frames, "clip": clip},
        target={
            "span_frames": span,
            "span_seconds": (start / fps, end / fps),
            "frames": frames,
            "boxes": boxes or [BOX] * len(frames),
        },
    )


def vtg(span_seconds, id="a", group=None, windows=None):
    frames = (math.floor(span_seconds[0] * FPS), math.ceil(span_seconds[1] * FPS))
    return AnnotationRow(
        id=id,
        task="vtg",
        group=group,
        messages=[{"role": "user", "content": "<video>when?"}],
        videos=["v.mp4"],
        media={"width": 100, "height": 50, "fps": FPS, "num_frames": 1000},
        target={"span_frames": frames, "span_seconds": span_seconds, "windows_seconds": windows},
    )


def rec(box=BOX, id="a", group=None):
    return AnnotationRow(
        id=id,
        task="rec",
        group=group,
        messages=[{"role": "user", "content": "<image>where?"}],
        images=["i.png"],
        media={"width": 100, "height": 50},
        target={"frames": [0], "boxes": [box]},
    )


def answer(span=None, frames=None, boxes=None, id="a", **fields):
    return PredictionRow(id=id, span_frames=span, frames=frames, boxes=boxes, **fields)


def constant(span, box=BOX, frames=range(10), **fields):
    frames = list(frames)
    return answer(span, frames, [box] * len(frames), **fields)


def scores(task, row, *predictions, fill="linear"):
    """The scores of one item, in the order of its columns."""
    (item,) = evaluate(task, [row], predictions, fill=fill).items
    return [value for key, value in item.items() if key not in ("id", "group", "error")]


def approx(*values):
    return pytest.approx(values, abs=1e-12)
