"""Stage 4: ambiguous tubes go; what is left becomes stvg annotation rows."""

import hashlib
import json
from collections.abc import Iterator
from typing import Literal

from ..data.prompts import answer, instruction
from ..data.schema import AnnotationRow, Message, Target
from .rows import AnnotatedFrame, Box, Kept, Refined, Rejected


class Filter:
    """The stage.

    A frame with too many boxes loses its box (the tube is interpolated there); a tube whose area jumps between
    neighbouring boxes has changed its object, so its row goes.

    Args:
        max_boxes: Most boxes of a frame.
        count: Whose boxes these are: of `all` the caption's objects, or of the main `subject` alone.
        max_area_ratio: Most that the area may grow or shrink from one of the tube's boxes to the next.
        min_coverage: Least part of the span's frames that must have a box left, in 0..1.
    """

    name = "filter"
    reads = Refined
    reasons = {
        "crowded": "every frame has more than --max-boxes boxes",
        "sparse": "fewer frames have a box than --min-coverage",
        "area_jump": "the box's area changes by more than --max-area-ratio",
    }

    def __init__(
        self,
        max_boxes: int = 3,
        count: Literal["all", "subject"] = "all",
        max_area_ratio: float = 2.0,
        min_coverage: float = 0.5,
    ) -> None:
        self.max_boxes, self.count = max_boxes, count
        self.max_area_ratio, self.min_coverage = max_area_ratio, min_coverage
        self.options = {
            "max_boxes": max_boxes,
            "count": count,
            "max_area_ratio": max_area_ratio,
            "min_coverage": min_coverage,
        }

    def process(self, rows: Iterator[Refined]) -> Iterator[tuple[str, Kept | Rejected]]:
        """Row by row."""
        for row in rows:
            yield row.id, self._filter(row)

    def _filter(self, row: Refined) -> Kept | Rejected:
        boxed = [frame for frame in row.frames if frame.subject_box is not None]
        kept = [frame for frame in boxed if self._num_boxes(frame) <= self.max_boxes]
        counts = {"frames dropped": len(boxed) - len(kept)}
        if not kept:
            return Rejected("crowded", f"all of {len(boxed)} frames", counts)

        coverage = len(kept) / len(row.frames)
        if coverage < self.min_coverage:
            return Rejected("sparse", f"a box on {len(kept)} of {len(row.frames)} frames", counts)

        for before, after in zip(kept, kept[1:]):
            a, b = _area(before.subject_box), _area(after.subject_box)
            if max(a, b) > self.max_area_ratio * min(a, b):
                detail = f"{a:g} to {b:g} square pixels between frames {before.frame} and {after.frame}"
                return Rejected("area_jump", detail, counts)

        return Kept(_annotation(row, kept), {**counts, "boxes": len(kept)})

    def _num_boxes(self, frame: AnnotatedFrame) -> int:
        return sum(self.count == "all" or detection.label == 0 for detection in frame.detections)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _annotation(row: Refined, frames: list[AnnotatedFrame]) -> AnnotationRow:
    """The stvg row."""
    source = row.source
    row_id = _row_id(source)
    question = f"<video>{instruction('stvg', source.query, row_id)}"
    return AnnotationRow(
        id=row_id,
        task="stvg",
        group="unistg",
        query=source.query,
        messages=[
            Message(role="user", content=question),
            Message(role="assistant", content=answer("stvg", row.span_seconds, row_id)),
        ],
        videos=source.videos[:1],
        media=source.media,
        target=Target(
            span_frames=row.span_frames,
            span_seconds=row.span_seconds,
            frames=[frame.frame for frame in frames],
            boxes=[frame.subject_box for frame in frames],
        ),
    )


def _row_id(source: AnnotationRow) -> str:
    """The source's id, and a hash of what the row is made from: it changes if that changes under the same id."""
    content = json.dumps([source.videos[0], source.query, source.target.span_frames], ensure_ascii=False)
    return f"unistg/{source.id}/{hashlib.blake2b(content.encode(), digest_size=4).hexdigest()}"
