"""Intersection over union of boxes and of spans; 0 wherever there is nothing to divide."""

import numpy as np


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes, pair by pair.

    Args:
        a: xyxy boxes of shape (..., 4), in any one unit.
        b: The same, of a shape that broadcasts with `a`.

    Returns:
        Plain IoU, without the +1 of whole-pixel boxes. An empty, reversed or non-finite box has IoU 0 with anything.
    """
    # Areas of any size may be infinite, and infinite coordinates give inf - inf; the NaN falls out as "not above 0" below.
    with np.errstate(invalid="ignore", over="ignore"):
        inter = _area(np.maximum(_overlap(a, b), 0))
        union = _area(np.maximum(_sides(a), 0)) + _area(np.maximum(_sides(b), 0)) - inter

    return np.divide(inter, union, out=np.zeros(inter.shape), where=union > 0)


def raw_box_iou(a: np.ndarray, b: np.ndarray, nothing: float = np.nan) -> np.ndarray:
    """IoU of boxes as the published scripts compute it: areas are not held at 0, so a flipped box counts negative.

    Args:
        a: xyxy boxes of shape (..., 4), in any one unit.
        b: The same, of a shape that broadcasts with `a`.
        nothing: The value of 0/0: two empty boxes, or a flipped one and another of the same size.

    Returns:
        IoU; NaN wherever a coordinate is NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        inter = _area(np.maximum(_overlap(a, b), 0))
        union = _area(_sides(a)) + _area(_sides(b)) - inter
        return np.where((inter == 0) & (union == 0), nothing, inter / union)


def _sides(boxes: np.ndarray) -> np.ndarray:
    """Width and height of each box, negative for a flipped one."""
    return boxes[..., 2:] - boxes[..., :2]


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Width and height of what each pair of boxes shares, negative where they lie apart."""
    return np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])


def _area(sides: np.ndarray) -> np.ndarray:
    # `prod(axis=-1)` says the same, and takes twice the time for an axis of two.
    return sides[..., 0] * sides[..., 1]


def span_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """IoU of two spans (start, end) in one unit: seconds, or half-open native frames; 0 if one is empty or reversed."""
    inter = min(a[1], b[1]) - max(a[0], b[0])
    # Written so that NaN fails it, too.
    if not (inter > 0 and a[0] < a[1] and b[0] < b[1]):
        return 0.0

    # Spans that overlap have no gap: their union is the hull.
    return inter / (max(a[1], b[1]) - min(a[0], b[0]))
