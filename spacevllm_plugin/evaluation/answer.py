"""A prediction as a scorer sees it: what became of it, its span and its boxes, at hand whatever the row left out."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..data.schema import SECOND_DECIMALS, AnnotationRow, Media, PredictionRow, RowError
from ..data.shortened import shortened
from ..data.timeline import Timeline
from ..data.tube import box_array, interpolate_boxes
from .choice import Question, read_choice


Outcome = Literal["scored", "missing", "unreadable", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("scored", "missing", "unreadable", "failed")

Fill = Literal["linear", "none"]
FILLS: tuple[Fill, ...] = ("linear", "none")


@dataclass(frozen=True)
class Prediction:
    """A prediction row in little memory: all of them are held while the annotations are read.

    Attributes:
        id: As the row's, like all that follows.
        text: The generated answer.
        status: `ok`, `unreadable` or `failed`.
        error: What failed.
        span_seconds: Predicted span.
        span_frames: The same as a half-open range of native frames.
        windows_seconds: All predicted spans, best first.
        frames: Native frames that carry a box, shape (n,).
        boxes: xyxy boxes in pixels, shape (m, 4).
    """

    id: str
    text: str
    status: str
    error: str | None
    span_seconds: tuple[float, float] | None
    span_frames: tuple[int, int] | None
    windows_seconds: list[tuple[float, float]] | None
    frames: np.ndarray
    boxes: np.ndarray

    @classmethod
    def of(cls, row: PredictionRow) -> "Prediction":
        """Take what scoring needs."""
        return cls(
            id=row.id,
            text=row.text,
            status=row.status,
            error=row.error,
            span_seconds=row.span_seconds,
            span_frames=row.span_frames,
            windows_seconds=row.windows_seconds,
            frames=np.array(row.frames or [], dtype=np.int64),
            boxes=box_array(row.boxes or []),
        )


@dataclass(frozen=True)
class Answer:
    """The answer to one annotation row.

    Attributes:
        outcome: `missing` without a prediction row, else its status; an `ok` row without the thing asked for (a span,
            or for rec a box) counts as `unreadable`.
        error: One line for everything that is not `scored`, else None.
        media: The annotation's; only a vtg row may lack it.
        prediction: None if missing.
        fill: `linear` interpolates between the predicted boxes and holds the first and last over the clip; `none`
            takes them exactly as given.
    """

    outcome: Outcome
    error: str | None
    media: Media | None
    prediction: Prediction | None
    fill: Fill

    @property
    def span_frames(self) -> tuple[int, int]:
        """Half-open range of native frames, as predicted or from the seconds; (0, 0) unless scored."""
        if self.outcome != "scored":
            return (0, 0)

        if self.prediction.span_frames is not None:
            return self.prediction.span_frames

        start, end = self.prediction.span_seconds
        # The time line stretches any span to a frame at least; an empty or reversed one earns none.
        if not (math.isfinite(start) and math.isfinite(end) and start < end):
            return (0, 0)

        return self._timeline.span_frames((start, end), clip=self.media.frame_range)

    @property
    def span_edges(self) -> tuple[float, float]:
        """`span_frames` with the part of a frame by which the predicted seconds start or end later or earlier.

        Whole frames where the seconds are written from whole frames, to the millisecond or exactly, where another frame than
        theirs is predicted (another clock, a cut at the clip's edge), or where less than a frame is left between them.
        """
        frames = self.span_frames
        if self.outcome != "scored" or self.prediction.span_seconds is None:
            return frames

        start, end = map(self._edge, frames, self.prediction.span_seconds)
        return (start, end) if end - start >= 1 else frames

    def _edge(self, frame: int, second: float) -> float:
        whole, (first, last) = self._timeline.seconds(frame), self.media.frame_range
        if second in (whole, round(whole, SECOND_DECIMALS)):
            return frame

        edge = second * self.media.fps
        # Half a frame, and what rounding the seconds may add.
        near = abs(edge - frame) <= 0.5 + 0.5 * 10**-SECOND_DECIMALS * self.media.fps
        return edge if near and first <= edge <= last else frame

    @property
    def windows_seconds(self) -> list[tuple[float, float]]:
        """Spans in seconds, best first; the one span where the prediction ranks none; empty unless scored."""
        if self.outcome != "scored":
            return []

        return self.prediction.windows_seconds or [self.span_seconds]

    @property
    def span_seconds(self) -> tuple[float, float]:
        """Seconds, as predicted or from the frames; (0, 0) unless scored."""
        if self.outcome != "scored":
            return (0.0, 0.0)

        if self.prediction.span_seconds is not None:
            return self.prediction.span_seconds

        if self.media is None:
            row_id = shortened(self.prediction.id)
            raise RowError(f"prediction {row_id}: span_frames alone, but the annotation has no frame rate")

        return self._timeline.span_seconds(self.prediction.span_frames)

    def has_box_at(self, wanted: np.ndarray) -> np.ndarray:
        """Whether there is a predicted box at each of the native frames, usable or not; bool of shape (n,)."""
        if self.outcome in ("missing", "failed") or not len(self.prediction.boxes):
            return np.zeros(len(wanted), dtype=bool)

        return np.full(len(wanted), True) if self.fill == "linear" else np.isin(wanted, self.prediction.frames)

    def boxes_at(self, wanted: np.ndarray) -> np.ndarray:
        """Predicted boxes at native frames.

        An unreadable answer still has its boxes: they come from the prefill and do not depend on the text.

        Args:
            wanted: Native frames, shape (n,).

        Returns:
            xyxy boxes in pixels, shape (n, 4); NaN where there is none.
        """
        boxes = np.full((len(wanted), 4), np.nan)
        if self.outcome in ("missing", "failed") or not len(self.prediction.boxes):
            return boxes

        frames, given = self.prediction.frames, self.prediction.boxes
        if self.fill == "linear":
            return interpolate_boxes(frames, given, wanted)

        place = np.searchsorted(frames, wanted).clip(max=len(frames) - 1)
        found = frames[place] == wanted
        boxes[found] = given[place[found]]
        return boxes

    @property
    def _timeline(self) -> Timeline:
        return Timeline(self.media.num_frames, self.media.fps)


def read_answer(row: AnnotationRow, prediction: Prediction | None, fill: Fill) -> Answer:
    """Look at a prediction as the answer to an annotation row.

    Raises:
        RowError: The prediction's boxes cannot be told apart: another number of frames, frames that do not increase,
            or more than one box for an image.
    """
    if prediction is None:
        return Answer("missing", "missing", row.media, None, fill)

    check_boxes(prediction, row.task)
    if prediction.status == "failed":
        return Answer("failed", prediction.error or "failed", row.media, prediction, fill)

    if row.task == "rec":
        answered = len(prediction.boxes) > 0
    elif row.task == "qa":
        answered = read_choice(prediction.text, Question.of(row)) is not None
    else:
        answered = prediction.span_frames is not None or prediction.span_seconds is not None

    if prediction.status == "unreadable" or not answered:
        return Answer("unreadable", "unreadable", row.media, prediction, fill)

    return Answer("scored", None, row.media, prediction, fill)


def check_boxes(prediction: Prediction, task: str) -> None:
    """Raise `RowError` where boxes cannot be told apart: see `read_answer`."""
    frames, boxes = prediction.frames, prediction.boxes
    if len(frames) != len(boxes):
        raise RowError(f"prediction {shortened(prediction.id)}: {len(frames)} frames but {len(boxes)} boxes")

    if (frames[1:] <= frames[:-1]).any():
        raise RowError(f"prediction {shortened(prediction.id)}: frames must increase")

    if task == "rec" and len(boxes) > 1:
        raise RowError(f"prediction {shortened(prediction.id)}: {len(boxes)} boxes for one image")
