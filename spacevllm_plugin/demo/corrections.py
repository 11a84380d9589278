"""What a visitor puts right: a box at a frame, the span, or that the thing is not there at all."""

import hashlib
import math
from pathlib import Path

from ..data.corrections import append_correction
from ..data.output import OutputError, replaced
from ..data.schema import AnnotationRow, RowError
from ..data.video import MediaError
from .answers import Answered, Box
from .limits import Refused
from .medium import Medium


MEDIA_FOLDER = "media"


def read_box(text: str, medium: Medium) -> Box | None:
    """A box from what a field holds, xyxy in pixels; None where it is not (yet) four numbers that make one."""
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        return None

    inside = 0 <= x1 < x2 <= medium.width and 0 <= y1 < y2 <= medium.height
    return (x1, y1, x2, y2) if inside else None


def read_span(start: float | None, end: float | None, medium: Medium) -> tuple[float, float]:
    """A span from two fields, in seconds; raises `Refused` for one that is not in the video."""
    last = medium.timeline.seconds(medium.num_frames)
    # What a field shows is rounded.
    if start is None or end is None or not (math.isfinite(start + end) and 0 <= start < end <= last + 0.01):
        raise Refused(f"the span must start before it ends, within the {last:.2f} seconds of the video")

    return start, min(end, last)


def save(file: Path, medium: Medium, one: Answered, only_drawn: bool, absent: bool) -> AnnotationRow:
    """Append what a visitor says of one sentence as an annotation row; the medium is copied beside the file.

    Args:
        file: The server's owner named it.
        medium: What the visitor looked at.
        one: The sentence, the answer, and what was put right of it; its `span_seconds` is set where it is in a video.
        only_drawn: Leave out the model's boxes where the visitor drew any.
        absent: It is not there: no span and no box.

    Raises:
        Refused: No row can be made of this, or it cannot be written.
    """
    span = None if absent or medium.timeline is None else one.span_seconds
    keyframes = {} if absent else _keyframes(medium, one, only_drawn)
    if not keyframes and not absent:
        raise Refused("draw a box first")

    try:
        return append_correction(file, _copied(medium, file.parent / MEDIA_FOLDER), one.query, span, keyframes)
    except RowError as err:
        raise Refused(err.reason) from None
    except (OutputError, MediaError) as err:
        raise Refused("the server cannot save it") from err


def _keyframes(medium: Medium, one: Answered, only_drawn: bool) -> dict[int, Box]:
    """The boxes that say where it is; the model's are corrected by the visitor's, frame by frame."""
    boxes = dict(zip(one.prediction.frames or [], one.prediction.boxes or []))
    if only_drawn and one.drawn:
        boxes = {}

    # A model may say that a thing has no extent; an annotation cannot.
    usable = {frame: box for frame, box in boxes.items() if box[0] < box[2] and box[1] < box[3]}
    return dict(sorted((usable | one.drawn).items()))


def _copied(medium: Medium, folder: Path) -> Path:
    """A copy under a name made of what is in it: the same medium is kept once."""
    with open(medium.path, "rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()[:16]

    copy = folder / f"{name}{medium.suffix}"
    if not copy.exists():
        with open(medium.path, "rb") as source, replaced(copy) as out:
            while chunk := source.read(1 << 20):
                out.write(chunk)

    return copy
