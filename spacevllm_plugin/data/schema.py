"""The annotation row and the prediction row: the two JSONL formats everything else reads and writes."""

import json
import math
import re
from collections.abc import Iterator
from itertools import chain
from operator import ge
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json

from .jsonl import filled_lines, json_problem
from .limits import LEAST_FPS, MOST_FPS, MOST_FRAMES, MOST_SECONDS, MOST_SIDE
from .shortened import shortened
from .storage import holds_secret
from .tube import box_array


TASKS = ("stvg", "vtg", "rec", "qa")
VISUAL_TAGS = {"videos": "<video>", "images": "<image>"}
MEDIA_TAG = re.compile("|".join(VISUAL_TAGS.values()))
REASON_WIDTH = 240  # it may hold a name or a number of any length
# What a prediction carries: all that a reader can use, and less than the last digits in which machines differ.
PIXEL_DECIMALS, SECOND_DECIMALS = 2, 3


class RowError(ValueError):
    """A row that cannot be used; the message is one line and names the row.

    Attributes:
        kind: What sort of error it is: `json`, `schema` (fields), or the rule that is broken, for instance
            `span-reversed`.
        reason: The message without the row's place and id.
    """

    def __init__(self, message: str, kind: str = "schema", reason: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.reason = reason or message


def broken(kind: str, reason: str) -> PydanticCustomError:
    """The error of a broken rule, for a validator to raise; `parse_row` turns it into a `RowError` of this kind."""
    return PydanticCustomError("broken_rule", "{reason}", {"kind": kind, "reason": reason})


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=True)


class Message(_Model):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Media(_Model):
    """What is known of the (first) video or image.

    Attributes:
        width: Pixels, as displayed (after the file's rotation flag).
        height: Pixels, as displayed.
        fps: Native frames per second; None for an image.
        num_frames: Native frames of the file; None for an image.
        clip: Half-open range of 0-based native frames of the file that is looked at; None means all of it.
    """

    width: int
    height: int
    fps: float | None = None
    num_frames: int | None = None
    clip: tuple[int, int] | None = None

    @property
    def frame_range(self) -> tuple[int, int]:
        """The clip, or the whole file: a half-open range of native frames."""
        return self.clip if self.clip is not None else (0, self.num_frames or 0)


class Target(_Model):
    """What is to be found.

    Attributes:
        span_frames: Half-open range of 0-based native frames of the file (not of the clip).
        span_seconds: The same in seconds.
        frames: Native frames that carry a box; may be sparse. `[0]` for an image.
        boxes: One xyxy box in pixels of the original frame for each of `frames`.
        windows_seconds: All spans that answer the sentence, for a vtg row that has several (QVHighlights), start and end
            in seconds; `span_seconds` is one of them.
        source_frames: Native frames whose box the source has otherwise than `boxes`, or has alone: the box leaves the
            frame, so that `boxes` has it cut or not at all; or the frame is the one behind the span. Published scorers
            count these boxes; training and `native` do not.
        source_boxes: The source's own xyxy box for each of `source_frames`.
    """

    span_frames: tuple[int, int] | None = None
    span_seconds: tuple[float, float] | None = None
    windows_seconds: list[tuple[float, float]] | None = None
    frames: list[int] | None = None
    boxes: list[tuple[float, float, float, float]] | None = None
    source_frames: list[int] | None = None
    source_boxes: list[tuple[float, float, float, float]] | None = None


class RowFields(_Model):
    """The fields of an annotation row, of the right types but not yet checked against each other.

    Attributes:
        tags: Further names to break scores down by, for instance `{"duration": "short", "domain": "Sports"}`.
    """

    id: str
    task: Literal["stvg", "vtg", "rec", "qa"]
    messages: list[Message]
    group: str | None = None
    query: str | None = None
    videos: list[str | list[str]] | None = None
    images: list[str] | None = None
    media: Media | None = None
    target: Target | None = None
    tags: dict[str, str] | None = None


class AnnotationRow(RowFields):
    """One instance of a grounding or question-answering data set."""

    @model_validator(mode="after")
    def _check(self) -> "AnnotationRow":
        if self.media is not None:
            self._check_media(self.media)

        for path in chain(self.images or (), *([v] if isinstance(v, str) else v for v in self.videos or ())):
            if holds_secret(path):  # and is not shown
                raise broken("media-secret", "the address of a medium holds a password or a signature")

        for column, tag in VISUAL_TAGS.items():
            tags = sum(message.content.count(tag) for message in self.messages if message.role == "user")
            files = len(getattr(self, column) or [])
            if tags != files:
                raise broken("tags", f"{tags} {tag} in the messages but {files} {column}")

            other = next((m.role for m in self.messages if m.role != "user" and tag in m.content), None)
            if other:
                raise broken("tags", f"{tag} in a message of the {other}")

        check = getattr(self, f"_check_{self.task}")
        check()
        return self

    @staticmethod
    def _check_media(media: Media) -> None:
        first, last = media.clip or (None, None)
        for name, value, least, most in (
            ("width", media.width, 1, MOST_SIDE),
            ("height", media.height, 1, MOST_SIDE),
            ("fps", media.fps, LEAST_FPS, MOST_FPS),
            ("num_frames", media.num_frames, 1, MOST_FRAMES),
            ("clip", first, 0, MOST_FRAMES),
            ("clip", last, 0, MOST_FRAMES),
        ):
            # Written so that NaN fails it, too.
            if value is not None and not least <= value <= most:
                raise broken("media-limits", f"media.{name} {value} is none that a file has: {least:g} to {most:g}")

    def _check_qa(self) -> None:
        if self.target is not None:
            raise broken("target", "a qa row has no target")

    def _check_rec(self) -> None:
        self._require(images=self.images, media=self.media, target=self.target)
        self._check_boxes(frame_range=(0, 1))

    def _check_vtg(self) -> None:
        self._require(videos=self.videos, target=self.target)
        # Annotations in seconds are complete without the video's facts: training writes seconds and scores compare them.
        if self.media is not None:
            self._check_span()
        elif self.target.span_frames is not None:
            raise broken("target", "span_frames without media: there is no clock to read them by")
        else:
            self._check_seconds("span_seconds", self.target.span_seconds)

        for window in self.target.windows_seconds or ():
            self._check_seconds("windows_seconds", window)

        target = self.target
        if target.frames or target.boxes or target.source_frames or target.source_boxes:
            raise broken("target", "a vtg row has no boxes")

    def _check_stvg(self) -> None:
        self._require(videos=self.videos, media=self.media, target=self.target)
        self._check_span()
        self._check_boxes(frame_range=self.media.frame_range)

    def _require(self, **parts: Any) -> None:
        for name, value in parts.items():
            if not value:
                raise broken("target", f"a {self.task} row needs {name}")

    def _check_span(self) -> None:
        media, target = self.media, self.target
        if media.fps is None or media.num_frames is None:
            raise broken("target", f"a {self.task} row needs media.fps and media.num_frames")

        first, last = media.frame_range
        if not 0 <= first < last <= media.num_frames:
            raise broken(
                "clip-outside", f"clip {[first, last]} is not inside the {media.num_frames} frames of the video"
            )

        if target.span_frames is None:
            raise broken("target", f"a {self.task} row needs target.span_frames")

        start, end = target.span_frames
        if start >= end:
            raise broken("span-reversed", f"span_frames {[start, end]} is empty or reversed")

        if start < first or end > last:
            kind = "span-beyond-end" if first <= start < last else "span-outside"
            raise broken(kind, f"span_frames {[start, end]} is outside the video's frames {[first, last]}")

        self._check_seconds("span_seconds", target.span_seconds)

    def _check_seconds(self, name: str, span: tuple[float, float] | None) -> None:
        if span is None:
            raise broken("target", f"a {self.task} row needs target.{name}")

        start, end = span
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
            raise broken("span-reversed", f"{name} {[start, end]} is empty, reversed or not a number")

        if end > MOST_SECONDS:
            raise broken("media-limits", f"{name} {[start, end]} is in no file: it may have {MOST_SECONDS:g} seconds")

    def _check_boxes(self, frame_range: tuple[int, int]) -> None:
        frames, boxes = self.target.frames, self.target.boxes
        if not frames or not boxes or len(frames) != len(boxes):
            raise broken("frames", f"{len(frames or [])} frames but {len(boxes or [])} boxes in the target")

        if any(map(ge, frames, frames[1:])):
            raise broken("frames", "target.frames must increase")

        self._check_inside(frames, frame_range)
        self._check_source(frame_range)

        # Half a pixel of slack: annotations are rounded. All boxes at once: test sets have millions.
        width, height = self.media.width, self.media.height
        corners = box_array(boxes)
        low, high = corners[:, :2], corners[:, 2:]
        # Numbers that are not finite fail it, too.
        usable = (low >= -0.5) & (low < high) & (high <= (width + 0.5, height + 0.5))
        if usable.all():
            return

        first = int(usable.all(axis=1).argmin())
        frame, box = frames[first], list(boxes[first])
        if not all(map(math.isfinite, box)):
            raise broken("box-nan", f"box at frame {frame} is not a number")

        if box[0] >= box[2] or box[1] >= box[3]:
            raise broken("box-flipped", f"box at frame {frame} is empty or reversed: {box}")

        raise broken("box-outside", f"box at frame {frame} leaves the {width}x{height} frame: {box}")

    def _check_source(self, frame_range: tuple[int, int]) -> None:
        frames, boxes = self.target.source_frames, self.target.source_boxes
        if frames is None and boxes is None:
            return

        if not frames or not boxes or len(frames) != len(boxes) or any(map(ge, frames, frames[1:])):
            raise broken("frames", "target.source_frames must increase, with one of target.source_boxes for each")

        self._check_inside(frames, frame_range)
        # Nothing else is asked of them: they are what the source says.
        if not all(map(math.isfinite, chain.from_iterable(boxes))):
            raise broken("box-nan", "target.source_boxes holds what is not a number")

    @staticmethod
    def _check_inside(frames: list[int], frame_range: tuple[int, int]) -> None:
        if frames[0] < frame_range[0] or frames[-1] >= frame_range[1]:
            raise broken(
                "frame-outside", f"box at frame {frames[0]}..{frames[-1]} is outside the frames {list(frame_range)}"
            )


class PredictionRow(_Model):
    """What a model answered for one annotation row.

    Attributes:
        id: The annotation row's id.
        text: The generated answer.
        status: `ok`, `unreadable` (no span could be read from the text) or `failed` (the media could not be read).
        error: What failed, for `failed`.
        span_seconds: Predicted span, to the millisecond.
        span_frames: The same as a half-open range of native frames.
        frames: Every sampled native frame of the whole clip, not only inside the span; `[0]` for an image.
        boxes: One xyxy pixel box for each of `frames`, to a hundredth of a pixel.
        windows_seconds: All predicted spans where there are several, best first; `span_seconds` is the first.
    """

    model_config = ConfigDict(validate_assignment=True)

    id: str
    text: str = ""
    status: Literal["ok", "unreadable", "failed"] = "ok"
    error: str | None = None
    span_seconds: tuple[float, float] | None = None
    span_frames: tuple[int, int] | None = None
    frames: list[int] | None = None
    boxes: list[tuple[float, float, float, float]] | None = None
    windows_seconds: list[tuple[float, float]] | None = None

    @model_validator(mode="after")
    def _check(self) -> "PredictionRow":
        # Outside of its video a span or a box is a wrong answer; outside of any video the row is none.
        for name, frames in (("span_frames", self.span_frames), ("frames", self.frames)):
            if frames and not -MOST_FRAMES <= min(frames) <= max(frames) <= MOST_FRAMES:
                raise broken("media-limits", f"{name} holds a number beyond the {MOST_FRAMES} frames of any file")

        return self


def parse_row(data: dict[str, Any] | str | bytes, model: type[BaseModel] = AnnotationRow, where: str = "row") -> Any:
    """Validate one row.

    Args:
        data: The row, as JSON (text, or bytes in UTF-8) or already decoded.
        model: `AnnotationRow` or `PredictionRow`.
        where: Named in the message, for instance `train.jsonl:12`.

    Raises:
        RowError: One line that names the place, the row's id and the first thing wrong with it.
    """
    try:
        return model.model_validate_json(data) if isinstance(data, str | bytes) else model.model_validate(data)
    except ValidationError as err:
        first = err.errors()[0]
        if first["type"] == "json_invalid":
            reason = json_problem(data, first["msg"])
            raise RowError(f"{where}: {reason}", "json", reason) from None

        # The same reader again: another one may refuse what this one took.
        data = from_json(data) if isinstance(data, str | bytes) else data
        place = ".".join(str(part) for part in first["loc"])
        reason = shortened(f"{place}: {first['msg']}" if place else first["msg"], REASON_WIDTH)
        row_id = shortened(str(data.get("id", "?"))) if isinstance(data, dict) else "?"
        kind = first.get("ctx", {}).get("kind", "schema")
        raise RowError(f"{where} (id {row_id}): {reason}", kind, reason) from None


def split_turns(messages: list[Message]) -> tuple[str, list[Message]]:
    """A row's system message (empty where there is none) and its turns.

    Raises:
        RowError: The turns are not user and assistant in turn.
    """
    system = messages[0].content if messages and messages[0].role == "system" else ""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns or [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise RowError("the messages are not user and assistant in turn", "turns")

    return system, turns


def read_rows(path: str | Path, model: type[BaseModel] = AnnotationRow) -> Iterator[Any]:
    """Read a JSONL file row by row; raises `RowError` at the first bad one."""
    name = Path(path).name
    with open(path, "rb") as file:
        for line in filled_lines(file):
            yield parse_row(line.text, model, where=f"{name}:{line.number}")


def dump_row(row: BaseModel) -> str:
    """One row as one line of JSON, without the fields that are None."""
    return json.dumps(row.model_dump(exclude_none=True), ensure_ascii=False)
