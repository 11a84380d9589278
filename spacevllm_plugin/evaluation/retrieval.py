"""Average precision of ranked spans, as the official QVHighlights evaluation of moment retrieval has it."""

import numpy as np

from .iou import span_iou


MAP_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
MAX_PREDICTED = 10

Span = tuple[float, float]


def average_precisions(predicted: list[Span], windows: list[Span]) -> np.ndarray:
    """Interpolated average precision of one query at each of `MAP_THRESHOLDS`.

    Each predicted span, best first, is a hit if it reaches the threshold (>=) with a right span that no better-ranked one
    has taken; it takes the one that it overlaps most. Precision at a recall is the highest at that recall or beyond.

    Args:
        predicted: Spans in seconds, best first; those after the tenth do not count.
        windows: The right spans, in seconds.

    Returns:
        Shape (10,); 0 without a prediction.
    """
    predicted = predicted[:MAX_PREDICTED]
    if not predicted:
        return np.zeros(len(MAP_THRESHOLDS))

    ious = np.array([[span_iou(span, window) for window in windows] for span in predicted])
    return np.array([_interpolated(_hits(ious, threshold), len(windows)) for threshold in MAP_THRESHOLDS])


def _hits(ious: np.ndarray, threshold: float) -> np.ndarray:
    """Which of the ranked spans are hits, bool of shape (predicted,)."""
    free = np.ones(ious.shape[1], dtype=bool)
    hits = np.zeros(len(ious), dtype=bool)
    for rank, row in enumerate(ious):
        usable = np.where(free, row, -1.0)
        best = usable.argmax()
        if usable[best] >= threshold:
            hits[rank], free[best] = True, False

    return hits


def _interpolated(hits: np.ndarray, positives: int) -> float:
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[hits].sum() / positives)
