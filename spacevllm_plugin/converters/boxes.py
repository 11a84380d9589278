"""Raw boxes into boxes that lie in the frame."""

import math
from collections.abc import Iterable, Sequence

from ..data.schema import Target


Box = tuple[float, float, float, float]

# As the schema: annotations are rounded.
SLACK = 0.5

CUT, EMPTY = "box_cut_to_frame", "empty_box_left_out"


def xyxy(box: Sequence[float]) -> Box:
    """[x, y, width, height] -> (x1, y1, x2, y2)."""
    x, y, width, height = box
    return (x, y, x + width, y + height)


def fit_box(box: Box, width: int, height: int) -> tuple[Box | None, str | None]:
    """A box cut to the frame, or None if nothing of it is inside; and the name of the repair, if one was needed."""
    x1, y1, x2, y2 = box
    if x1 < -SLACK or y1 < -SLACK or x2 > width + SLACK or y2 > height + SLACK:
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        repair = CUT
    else:
        repair = None

    # Written so that NaN fails it.
    if box[0] < box[2] and box[1] < box[3]:
        return box, repair

    return None, EMPTY


def fit_tube(
    boxes: Iterable[tuple[int, Box]],
    width: int,
    height: int,
    repairs: set[str],
    behind: Iterable[tuple[int, Box]] = (),
) -> Target:
    """A target without its span yet: the boxes that have something inside the frame, and those mended as they were.

    Args:
        boxes: Increasing frames and their raw boxes.
        width: Pixels.
        height: Pixels.
        repairs: Takes the names of the repairs made.
        behind: Frames and boxes behind the span, which published scorers count.
    """
    frames, kept, source = [], [], []
    for frame, box in boxes:
        fitted, repair = fit_box(box, width, height)
        if repair is not None:
            repairs.add(repair)
            source.append((frame, box))

        if fitted is not None:
            frames.append(frame)
            kept.append(fitted)

    target = Target(frames=frames, boxes=kept)
    # What is not a number was no box in the source either.
    source = [(frame, box) for frame, box in (*source, *behind) if all(map(math.isfinite, box))]
    if source:
        target.source_frames, target.source_boxes = map(list, zip(*source))

    return target
