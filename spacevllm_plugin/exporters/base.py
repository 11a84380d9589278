"""What every format is written from: a predicted tube, its box at every native frame, and the facts of its medium."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from ..data.output import replaced
from ..data.schema import PIXEL_DECIMALS, AnnotationRow, Media, PredictionRow
from ..data.shortened import shortened
from ..data.video import VideoRef
from ..evaluation.answer import Answer, Prediction, check_boxes


# What the formats call the thing in the box; which one it is stands in the sentence.
LABEL = "object"


class ExportError(Exception):
    """Tubes that a format cannot hold; the message is one line."""


@dataclass(frozen=True)
class FrameBoxes:
    """A tube frame by frame.

    Attributes:
        frames: Native frames that have a box, increasing; (n,).
        boxes: xyxy in pixels, cut to the picture; (n, 4).
        keyframes: Whether a box is one to interpolate from: those between two of them are linear. The ends of a run
            without a gap are keyframes; (n,) bool.
    """

    frames: np.ndarray
    boxes: np.ndarray
    keyframes: np.ndarray

    def runs(self) -> Iterator["FrameBoxes"]:
        """Its parts without a gap."""
        breaks = np.flatnonzero(np.diff(self.frames) > 1) + 1
        for part in np.split(np.arange(len(self.frames)), breaks):
            if len(part):
                yield FrameBoxes(self.frames[part], self.boxes[part], self.keyframes[part])


@dataclass(frozen=True)
class TubeRecord:
    """One sentence, its medium and what was predicted.

    Attributes:
        id: The row's id.
        query: The sentence.
        media: How the files name the medium: a video, an image, or the frame images of a video.
        width: Pixels as displayed.
        height: Pixels as displayed.
        prediction: The answer.
        fps: Native frames per second; None for an image.
        num_frames: Native frames of the file; None for an image.
        clip: Half-open range of native frames that is looked at; None is the whole file.
        truth: The annotation row, for what can show both.
        source: Where the video is read from, for what draws on it; `media` where None.
    """

    id: str
    query: str
    media: str | tuple[str, ...]
    width: int
    height: int
    prediction: PredictionRow
    fps: float | None = None
    num_frames: int | None = None
    clip: tuple[int, int] | None = None
    truth: AnnotationRow | None = None
    source: VideoRef | None = None

    @property
    def is_image(self) -> bool:
        """Whether the medium is an image, which has frame 0 alone."""
        return self.fps is None

    @property
    def name(self) -> str:
        """The medium as one path: of frame images, their folder."""
        return self.media if isinstance(self.media, str) else os.path.dirname(self.media[0]) or self.media[0]

    @property
    def frame_range(self) -> tuple[int, int]:
        """Half-open range of native frames that is looked at."""
        return (0, 1) if self.is_image else self.clip or (0, self.num_frames)

    def frame_name(self, frame: int) -> str:
        """The image file of a native frame: of a video file, what `ffmpeg -start_number 0` makes of it."""
        if not isinstance(self.media, str):
            return self.media[frame]

        return self.media if self.is_image else f"{os.path.splitext(self.media)[0]}/{frame:06d}.jpg"

    @cached_property
    def answer(self) -> Answer:
        """The prediction as a scorer sees it."""
        prediction = Prediction.of(self.prediction)
        check_boxes(prediction, "rec" if self.is_image else "stvg")
        outcome = "scored" if prediction.status == "ok" else prediction.status
        if outcome == "scored" and not self.is_image and prediction.span_frames is prediction.span_seconds is None:
            outcome = "unreadable"

        media = Media(width=self.width, height=self.height, fps=self.fps, num_frames=self.num_frames, clip=self.clip)
        return Answer(outcome, prediction.error, media, prediction, "linear")

    @cached_property
    def tube(self) -> FrameBoxes:
        """Its box at every native frame of the span; without any where nothing was found."""
        first, last = self.frame_range
        start, end = (0, 1) if self.is_image else self.answer.span_frames
        frames = np.arange(max(start, first), min(end, last)) if self.answer.outcome == "scored" else np.arange(0)
        given = self.answer.boxes_at(frames)
        limits = np.array([self.width, self.height] * 2, dtype=float)
        boxes = given.clip(0, limits).round(PIXEL_DECIMALS)
        # Predictions of others may hold any numbers.
        usable = np.isfinite(given).all(axis=1) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
        keyframes = np.isin(frames, self.answer.prediction.frames)
        keyframes[[0, -1] if len(frames) else []] = True
        # What is cut is not linear any more.
        if not usable.all() or (np.abs(given - boxes) > 10.0**-PIXEL_DECIMALS).any():
            keyframes[:] = True

        return FrameBoxes(frames[usable], boxes[usable], keyframes[usable])


@dataclass(frozen=True)
class Exporter:
    """A format.

    Attributes:
        name: As `--format` has it.
        suffix: Of its files.
        holds: What one file can hold: a `set` of any tubes, or those on one `medium` (all images count as one).
        dump: Writes tubes to an open file.
        images: Whether it can hold images.
    """

    name: str
    suffix: str
    holds: Literal["set", "medium"]
    dump: Callable[[BinaryIO, list[TubeRecord]], None]
    images: bool = True

    def write(self, out: Path | str, tubes: list[TubeRecord]) -> None:
        """Write one file, whole or not at all.

        Args:
            out: The file, or its address.
            tubes: At least one; those of which nothing was found leave their medium in the file, and no box.

        Raises:
            ExportError: The format cannot hold these tubes together, or no image.
            MediaError: A medium that is drawn on cannot be read.
            OutputError: The file cannot be written.
            RowError: A prediction's boxes cannot be told apart.
        """
        if not tubes:
            raise ExportError("there is no tube to write")

        if len(self.groups(tubes)) > 1:
            raise ExportError(f"a file of {self.name} holds the tubes of one video, not of several")

        image = next((tube for tube in tubes if tube.is_image), None)
        if image is not None and not self.images:
            raise ExportError(f"{self.name} is for videos, and {shortened(image.id)} is on an image")

        with replaced(out) as file:
            self.dump(file, tubes)

    def groups(self, tubes: list[TubeRecord]) -> list[list[TubeRecord]]:
        """Tubes in the groups that a file each can hold, in order of appearance."""
        return [tubes] if self.holds == "set" else list(by_medium(tubes, images_apart=False).values())


def by_medium(tubes: list[TubeRecord], images_apart: bool = True) -> dict[object, list[TubeRecord]]:
    """Tubes by what they are on, in order of appearance; images all together unless they are kept apart."""
    groups: dict[object, list[TubeRecord]] = {}
    for tube in tubes:
        groups.setdefault(tube.media if images_apart or not tube.is_image else None, []).append(tube)

    return groups


def frames_of(tubes: list[TubeRecord]) -> range:
    """Native frames of one medium that any of its tubes looks at."""
    starts, ends = zip(*(tube.frame_range for tube in tubes))
    return range(min(starts), max(ends))


def xywh(box: np.ndarray) -> list[float]:
    """A box (xyxy) as left, top, width, height."""
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, round(x2 - x1, PIXEL_DECIMALS), round(y2 - y1, PIXEL_DECIMALS)]


def polygon(box: np.ndarray) -> list[list[float]]:
    """A box (xyxy) as an outline, for tools that draw and compare masks alone."""
    x1, y1, x2, y2 = box.tolist()
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]
