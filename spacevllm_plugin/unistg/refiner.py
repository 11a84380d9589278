"""Stage 3: the main subject's boxes become one tube, and the span is tightened to it."""

from collections.abc import Iterator

from .linking import link_tube
from .rows import Annotated, Kept, Refined, Rejected


class Refiner:
    """The stage.

    The tight span goes from the tube's first box to its last, as a half-open range of native frames.

    Args:
        min_seconds: A shorter span is dropped.
        max_seconds: A longer span is dropped.
        link_iou: See `link_tube`.
        link_gap: See `link_tube`; seconds.
    """

    name = "refine"
    reads = Annotated
    reasons = {
        "no_subject": "the main subject has no box",
        "too_short": "the tube is shorter than --min-seconds",
        "too_long": "the tube is longer than --max-seconds",
    }

    def __init__(
        self, min_seconds: float = 2.0, max_seconds: float = 120.0, link_iou: float = 0.3, link_gap: float = 1.0
    ) -> None:
        self.min_seconds, self.max_seconds = min_seconds, max_seconds
        self.link_iou, self.link_gap = link_iou, link_gap
        self.options = {
            "min_seconds": min_seconds,
            "max_seconds": max_seconds,
            "link_iou": link_iou,
            "link_gap": link_gap,
        }

    def process(self, rows: Iterator[Annotated]) -> Iterator[tuple[str, Kept | Rejected]]:
        """Row by row."""
        for row in rows:
            yield row.id, self._refine(row)

    def _refine(self, row: Annotated) -> Kept | Rejected:
        tube = link_tube(row.frames, min_iou=self.link_iou, max_gap=self.link_gap)
        if not tube:
            return Rejected("no_subject", f"no {row.objects[0]!r} on {len(row.frames)} frames")

        first, last = min(tube), max(tube)
        start, end = row.frames[first].seconds[0], row.frames[last].seconds[1]
        # Without rounding, 50 frames at 25 a second are 1.9999999999999991 seconds somewhere.
        length = round(end - start, 6)
        if length < self.min_seconds:
            return Rejected("too_short", f"{length:g} s")

        if length > self.max_seconds:
            return Rejected("too_long", f"{length:g} s")

        frames = [
            frame.model_copy(update={"subject": tube.get(position)})
            for position, frame in enumerate(row.frames[first : last + 1], start=first)
        ]
        refined = Refined(
            **{**dict(row), "frames": frames},
            span_frames=(frames[0].frame, frames[-1].frame + 1),
            span_seconds=(start, end),
        )
        return Kept(refined, {"frames": len(frames), "boxes on tubes": len(tube)})
