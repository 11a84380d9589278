"""Repairs that cannot teach anything wrong; whatever is not here is left to the user."""

from collections.abc import Callable

from ..data.facts import Facts
from ..data.rules import Clock
from ..data.schema import RowFields
from ..data.span_parser import rewrite_span, says_span
from ..data.tube import interpolate_boxes


# A box may leave the frame by this much of its side (or this many pixels) and still be one that was drawn too large;
# further out it was more likely drawn on a frame of another size.
OVERHANG_PART, OVERHANG_PIXELS = 0.05, 2.0
# A file and its annotation may count this much more or less of the same video's end.
TAIL_SECONDS = 1.0


def repair(row: RowFields, kind: str, facts: Facts | None) -> RowFields | None:
    """A row without its error of this kind; None where that is not safe. The row is not changed."""
    mend = REPAIRS.get(kind)
    if mend is None:
        return None

    # Without the class that checks: what is mended is to be checked again.
    return mend(RowFields.model_validate(row.model_dump()), facts)


def _clip_boxes(row: RowFields, facts: Facts | None) -> RowFields | None:
    width, height = row.media.width, row.media.height
    slack_x, slack_y = max(OVERHANG_PIXELS, OVERHANG_PART * width), max(OVERHANG_PIXELS, OVERHANG_PART * height)
    clipped = []
    for x1, y1, x2, y2 in row.target.boxes:
        near = min(x1, width - x2) >= -slack_x and min(y1, height - y2) >= -slack_y
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        if not near or box[0] >= box[2] or box[1] >= box[3]:
            return None

        clipped.append(box)

    row.target.boxes = clipped
    return row


def _cut_clip(row: RowFields, facts: Facts | None) -> RowFields | None:
    first, last = row.media.clip
    if row.media.num_frames is None or not 0 <= first < row.media.num_frames < last:
        return None

    row.media.clip = (first, row.media.num_frames)
    return row


def _cut_span(row: RowFields, facts: Facts | None) -> RowFields | None:
    """Cut span, seconds, answer and tube to the end of the clip."""
    target = row.target
    before = target.span_seconds
    if row.media is None:
        after = (before[0], facts.duration)
    else:
        (_, last), (start, end) = row.media.frame_range, target.span_frames
        after = (before[0], Clock.of(row.media, facts).at(last))
        if start >= last or end < last:
            return None

        target.span_frames = (start, last)

    if not 0 <= after[0] < after[1]:
        return None

    for message in row.messages:
        if message.role == "assistant" and says_span(message.content, before):
            message.content = rewrite_span(message.content, after)
            if message.content is None:
                return None

    target.span_seconds = after
    return _trim_tube(row, facts) if target.frames else row


def _trim_tube(row: RowFields, facts: Facts | None) -> RowFields | None:
    """Drop the boxes outside the span; one interpolated at its edge keeps the boxes inside as they were.

    Of the source's own boxes the one behind the span stays, if the clip has that frame.
    """
    target = row.target
    frames, boxes = target.frames, target.boxes
    start, end = target.span_frames
    first, last = row.media.frame_range
    usable = boxes and len(frames) == len(boxes) and all(a < b for a, b in zip(frames, frames[1:]))
    if not usable or frames[0] < first or frames[-1] < start or frames[0] >= end:
        return None

    wanted = {frame for frame in frames if start <= frame < end}
    wanted |= {start} if frames[0] < start else set()
    wanted |= {end - 1} if frames[-1] >= end else set()
    target.frames = sorted(wanted)
    target.boxes = [tuple(box) for box in interpolate_boxes(frames, boxes, target.frames).tolist()]
    source = zip(target.source_frames or (), target.source_boxes or ())
    kept = [(frame, box) for frame, box in source if start <= frame <= end and frame < last]
    target.source_frames, target.source_boxes = map(list, zip(*kept)) if kept else (None, None)
    return row


def _take_size(row: RowFields, facts: Facts | None) -> RowFields | None:
    """Without boxes nothing depends on the size."""
    if row.target is not None and row.target.boxes:
        return None

    row.media.width, row.media.height = facts.width, facts.height
    return row


def _take_fps(row: RowFields, facts: Facts | None) -> RowFields | None:
    """Without a target nothing depends on the rate."""
    if row.target is not None:
        return None

    row.media.fps = facts.fps
    return row


def _take_num_frames(row: RowFields, facts: Facts | None) -> RowFields | None:
    media, count = row.media, facts.num_frames
    if row.target is not None and abs(media.num_frames - count) > TAIL_SECONDS * media.fps:
        return None

    if media.clip is not None:
        media.clip = (media.clip[0], min(media.clip[1], count))

    media.num_frames = count
    return row


REPAIRS: dict[str, Callable[[RowFields, Facts | None], RowFields | None]] = {
    "box-outside": _clip_boxes,
    "clip-outside": _cut_clip,
    "span-beyond-end": _cut_span,
    "frame-outside": _trim_tube,
    "frame-outside-span": _trim_tube,
    "media-size": _take_size,
    "media-fps": _take_fps,
    "media-frames": _take_num_frames,
}
