"""MP4 and GIF: the video with the tubes of one or several sentences drawn on it."""

from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from ..data.shortened import shortened
from ..data.video import VideoRef
from ..inference.render import (
    PREDICTION_COLOR,
    Tube,
    render_gif,
    render_video,
    tube_from_prediction,
    tube_from_target,
)
from .base import Exporter, TubeRecord, frames_of


# Okabe and Ito's, without the truth's green and what white letters cannot be read on; then from the start.
COLORS = (PREDICTION_COLOR, "#0072B2", "#CC79A7", "#E69F00", "#56B4E9")


def _dump(render: Callable[..., None]) -> Callable[[BinaryIO, list[TubeRecord]], None]:
    def dump(file: BinaryIO, tubes: list[TubeRecord]) -> None:
        first, frames = tubes[0], frames_of(tubes)
        ref = first.source or VideoRef.parse(first.media)
        ref = replace(ref, clip=(frames.start, frames.stop), fps=ref.fps or first.fps)
        render(ref, list(_drawn(tubes)), file, first.query if len(tubes) == 1 else "")

    return dump


def _drawn(tubes: list[TubeRecord]) -> list[Tube]:
    """One tube beside its truth, or several with their sentences for names."""
    drawn = []
    if len(tubes) == 1 and tubes[0].truth is not None and tubes[0].truth.target is not None:
        drawn.append(tube_from_target(tubes[0].truth))

    for number, record in enumerate(tubes):
        label = tube_from_prediction(record.prediction).label if len(tubes) == 1 else shortened(record.query, 40)
        # As the other formats have it: cut to the picture, and nothing where nothing was found.
        frames, boxes = record.tube.frames.tolist(), record.tube.boxes.tolist()
        span = (frames[0], frames[-1] + 1) if frames else None
        drawn.append(Tube(span, frames, boxes, label, COLORS[number % len(COLORS)]))

    return drawn


MP4 = Exporter("mp4", ".mp4", "medium", _dump(render_video), images=False)
GIF = Exporter("gif", ".gif", "medium", _dump(render_gif), images=False)
