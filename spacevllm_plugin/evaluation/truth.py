"""The true tube of a row, as a scorer sees it."""

from dataclasses import dataclass

import numpy as np

from ..data.schema import AnnotationRow
from ..data.tube import box_array, interpolate_boxes


def is_hcstvg(row: AnnotationRow) -> bool:
    """Whether the row is HC-STVG's, by its id."""
    return row.id.startswith("hcstvg")


@dataclass(frozen=True)
class TrueTube:
    """Where and when the thing is.

    Attributes:
        start: First native frame of the span.
        end: The frame behind its last; not above `start` where a shift has left nothing.
        clip: Half-open range of native frames that is looked at.
        key_frames: Native frames that carry a box, shape (n,).
        key_boxes: Their xyxy boxes in pixels, shape (n, 4).
    """

    start: int
    end: int
    clip: tuple[int, int]
    key_frames: np.ndarray
    key_boxes: np.ndarray

    @classmethod
    def of(cls, row: AnnotationRow, shift: int = 0, end_shift: int = 0) -> "TrueTube":
        """The row's tube, moved by some frames (which may take it out of the clip), its end by some more."""
        target, (start, end) = row.target, row.target.span_frames
        return cls(
            start=start + shift,
            end=end + shift + end_shift,
            clip=row.media.frame_range,
            key_frames=np.array(target.frames) + shift,
            key_boxes=box_array(target.boxes),
        )

    @property
    def frames(self) -> np.ndarray:
        """Every native frame of the span, increasing."""
        return np.arange(self.start, self.end)

    def boxes_at(self, frames: np.ndarray) -> np.ndarray:
        """True boxes at native frames, xyxy pixels, shape (n, 4): interpolated, the first and the last one held."""
        return interpolate_boxes(self.key_frames, self.key_boxes, frames)
