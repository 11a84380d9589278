"""True boxes as published scripts have them: as annotated, where our rows hold them cut at the edge of the frame."""

from bisect import bisect_left
from functools import wraps

from ...data.schema import AnnotationRow
from ..answer import Answer
from .comparison import changed
from .scorer import Rules, Scored, ScoreItem


def on_source_boxes(score: ScoreItem, behind: int = 0) -> ScoreItem:
    """A published script's score, on the boxes of the row's source.

    Args:
        score: Takes the boxes that a row's target has.
        behind: How many frames behind the span the script reads, too.
    """

    @wraps(score)
    def on_source(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
        start, end = row.target.span_frames or (0, 1)
        cut = _with_source(row, end, end + behind)
        uncut = _with_source(cut, start, end)
        scored = score(uncut, answer, rules)
        if uncut is not cut and changed(scored.values, score(cut, answer, rules).values, *scored.values):
            quirks = (*scored.quirks, "true boxes that leave the frame counted uncut")
            return Scored(scored.values, scored.error, scored.stops, scored.counted, quirks)

        return scored

    return on_source


def _with_source(row: AnnotationRow, start: int, end: int) -> AnnotationRow:
    """The row with its source's boxes at the frames of a half-open range; the row itself where it has none there."""
    target = row.target
    pairs = zip(target.source_frames or (), target.source_boxes or ())
    source = [(frame, box) for frame, box in pairs if start <= frame < end]
    if not source:
        return row

    frames, boxes = list(target.frames), list(target.boxes)
    for frame, box in source:
        place = bisect_left(frames, frame)
        known = frames[place : place + 1] == [frame]
        frames[place : place + known], boxes[place : place + known] = [frame], [box]

    return row.model_copy(update={"target": target.model_copy(update={"frames": frames, "boxes": boxes})})
