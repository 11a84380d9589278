"""A chat reply's tubes for people to read."""

from collections.abc import Sequence

from ..data.reply import Tube, VideoTube
from ..data.shortened import shortened
from ..data.tube import interpolate_boxes


HEAD = ("medium", "span", "boxes", "box in the middle (x1, y1, x2, y2)")
NAME_WIDTH = 30
NO_SPAN = "no time could be read from the answer"


def span_words(span_seconds: tuple[float, float], span_frames: tuple[int, int]) -> str:
    """A span in seconds and in native frames, of which the last is inside it."""
    (start, end), (first, last) = span_seconds, span_frames
    return f"{start:.2f} to {end:.2f} s, frames {first} to {last - 1}"


def reply_table(tubes: Sequence[Tube], names: Sequence[str]) -> str:
    """One line per tube: its medium, its span, the boxes that the model gave inside it, and the one in its middle.

    Args:
        tubes: Of one reply.
        names: The name of each one's medium.
    """
    rows = [HEAD, *(_row(tube, shortened(name, NAME_WIDTH)) for tube, name in zip(tubes, names))]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows)


def _row(tube: Tube, name: str) -> tuple[str, ...]:
    if not isinstance(tube, VideoTube):
        return name, "-", "1", _box(tube.box)

    if tube.span_frames is None:
        return name, NO_SPAN, "-", "-"

    first, last = tube.span_frames
    inside = sum(first <= frame < last for frame in tube.frames)
    (middle,) = interpolate_boxes(tube.frames, tube.boxes, [(first + last - 1) // 2])
    return name, span_words(tube.span_seconds, tube.span_frames), str(inside), _box(middle)


def _box(box: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in box)
