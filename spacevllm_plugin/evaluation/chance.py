"""The best constant answer: what a model reaches that ignores both the sentence and the video."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from ..data.schema import AnnotationRow, PredictionRow, RowError
from ..data.tube import interpolate_boxes
from .iou import box_iou
from .score import ALL, evaluate


Span = tuple[float, float]

# Spans tried: every pair of points of this grid over the clip.
SPAN_GRID = 24
# Boxes tried: every pair of points of this grid in x and in y, then ever finer moves of the four edges.
BOX_GRID = 8
BOX_STEPS = (1 / 16, 1 / 32, 1 / 64, 1 / 128)
# The search looks at so many frames of each tube at most; the figures returned are those of all frames.
SEARCH_FRAMES = 8


def constant_baseline(rows: list[AnnotationRow]) -> dict:
    """Chance level of a set of stvg rows.

    One span and one box for all rows, chosen by search on these very rows, then scored by the `native` protocol.
    m_tIoU and m_sIoU are those of the best span and of the best box; m_vIoU and vIoU@R are those of the best pair,
    which is a choice of its own.

    Args:
        rows: Annotation rows; those of other tasks are passed over.

    Returns:
        `n`, `m_tIoU`, `m_vIoU`, `vIoU@0.3`, `vIoU@0.5`, `m_sIoU` as in the report of `evaluate`, and the answers
        behind them: `span` (fractions of the clip), `box` (xyxy, fractions of the frame), and `pair` with both.

    Raises:
        RowError: There is no stvg row.
    """
    rows = [row for row in rows if row.task == "stvg"]
    if not rows:
        raise RowError("no stvg row to take the chance level of")

    truth = _Truth.of(rows)
    span = _best_span(truth.mean_t_iou)
    box = _best_box(truth, truth.s_iou_weights())
    pair_span, pair_box = _best_pair(truth, start=span)

    apart, pair = _score(rows, span, box), _score(rows, pair_span, pair_box)
    return {
        **pair,
        "m_tIoU": apart["m_tIoU"],
        "m_sIoU": apart["m_sIoU"],
        "span": list(span),
        "box": box.tolist(),
        "pair": {"span": list(pair_span), "box": pair_box.tolist()},
    }


@dataclass(frozen=True)
class _Truth:
    """The tubes of N rows, thinned to M frames.

    Attributes:
        clips: Half-open native frames, shape (N, 2).
        spans: The same of the targets.
        row: For each thinned frame the row it belongs to, shape (M,).
        frame: Its native frame number.
        box: Its box as fractions of the frame, shape (M, 4).
        stands_for: How many native frames of the span it stands for; not an integer.
    """

    clips: np.ndarray
    spans: np.ndarray
    row: np.ndarray
    frame: np.ndarray
    box: np.ndarray
    stands_for: np.ndarray

    @classmethod
    def of(cls, rows: list[AnnotationRow]) -> "_Truth":
        frames, boxes = [], []
        for row in rows:
            start, end = row.target.span_frames
            count = min(end - start, SEARCH_FRAMES)
            # The middles of `count` equal parts of the span.
            frames.append(start + ((np.arange(count) + 0.5) * (end - start) / count).astype(int))
            size = np.array([row.media.width, row.media.height] * 2)
            boxes.append(interpolate_boxes(row.target.frames, row.target.boxes, frames[-1]) / size)

        spans = np.array([row.target.span_frames for row in rows])
        counts = np.array([len(part) for part in frames])
        return cls(
            clips=np.array([row.media.frame_range for row in rows]),
            spans=spans,
            row=np.repeat(np.arange(len(rows)), counts),
            frame=np.concatenate(frames),
            box=np.concatenate(boxes),
            stands_for=np.repeat((spans[:, 1] - spans[:, 0]) / counts, counts),
        )

    def mean_t_iou(self, span: Span) -> float:
        inter, union = self._overlap(_place(span, self.clips))
        return float((inter / union).mean())

    def s_iou_weights(self) -> np.ndarray:
        """What each frame's box IoU contributes to m_sIoU."""
        lengths = self.spans[:, 1] - self.spans[:, 0]
        return self.stands_for / lengths[self.row] / len(self.spans)

    def v_iou_weights(self, span: Span) -> np.ndarray:
        """What each frame's box IoU contributes to m_vIoU if this span is answered."""
        placed = _place(span, self.clips)
        _, union = self._overlap(placed)
        inside = (self.frame >= placed[self.row, 0]) & (self.frame < placed[self.row, 1])
        return inside * self.stands_for / union[self.row] / len(self.spans)

    def _overlap(self, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inter = np.minimum(placed[:, 1], self.spans[:, 1]) - np.maximum(placed[:, 0], self.spans[:, 0])
        inter = inter.clip(min=0)
        return inter, (placed[:, 1] - placed[:, 0]) + (self.spans[:, 1] - self.spans[:, 0]) - inter


def _place(span: Span, clips: np.ndarray) -> np.ndarray:
    """Half-open native frames of a span given in fractions of each clip; at least one frame."""
    first, last = clips[:, 0], clips[:, 1]
    start = np.minimum(first + np.rint(span[0] * (last - first)).astype(int), last - 1)
    end = np.maximum(first + np.rint(span[1] * (last - first)).astype(int), start + 1)
    return np.stack([start, end], axis=-1)


def _best_span(objective: Callable[[Span], float]) -> Span:
    grid = [i / SPAN_GRID for i in range(SPAN_GRID + 1)]
    return max(combinations(grid, 2), key=objective)


def _best_box(truth: _Truth, weights: np.ndarray) -> np.ndarray:
    """The box, as fractions of the frame, whose weighted sum of IoUs is highest: coarse grid, then hill climbing."""
    used = weights > 0
    boxes, weights = truth.box[used], weights[used]

    def best_of(candidates: np.ndarray) -> tuple[float, np.ndarray]:
        values = box_iou(candidates[:, None], boxes) @ weights
        return values.max(), candidates[values.argmax()]

    # Where targets are small no box of the grid may fit: their mean and their median compete with it.
    usual = np.stack([np.average(boxes, axis=0, weights=weights), np.median(boxes, axis=0)])
    sides = np.array(list(combinations(np.linspace(0, 1, BOX_GRID + 1), 2)))
    starts = [usual] + [np.stack([np.broadcast_to(x, sides.shape), sides], axis=-1).reshape(-1, 4) for x in sides]
    value, box = max((best_of(candidates) for candidates in starts), key=lambda found: found[0])

    moves = np.array(list(product((-1, 0, 1), repeat=4)))
    for step in BOX_STEPS:
        while (better := best_of((box + step * moves).clip(0, 1)))[0] > value:
            value, box = better

    return box


def _best_pair(truth: _Truth, start: Span) -> tuple[Span, np.ndarray]:
    """Span and box of the highest m_vIoU, improved in turn until neither can be."""
    span, value = start, -1.0
    while True:
        box = _best_box(truth, truth.v_iou_weights(span))
        ious = box_iou(box, truth.box)
        span = _best_span(lambda candidate: truth.v_iou_weights(candidate) @ ious)
        reached = truth.v_iou_weights(span) @ ious
        if reached <= value:
            return span, box

        value = reached


def _score(rows: list[AnnotationRow], span: Span, box: np.ndarray) -> dict:
    placed = _place(span, np.array([row.media.frame_range for row in rows])).tolist()
    answers = [
        PredictionRow(
            id=row.id,
            span_frames=frames,
            frames=[frames[0]],
            boxes=[(box * ([row.media.width, row.media.height] * 2)).tolist()],
        )
        for row, frames in zip(rows, placed)
    ]
    return evaluate("stvg", rows, answers).report()["groups"][ALL]
