"""`stalign`: LLaVA-ST's evaluation on ST-Align: 100 points over the clip, spans as fractions of it."""

import numpy as np

from ...data.schema import AnnotationRow
from ..answer import Answer
from ..iou import raw_box_iou
from ..truth import TrueTube
from . import native
from .comparison import changed, nan_reason
from .scorer import Rules, Scored, Scorer, left_out, stopped
from .source import on_source_boxes


POINTS = 100


def grid(clip: tuple[int, int]) -> np.ndarray:
    """Native frames under the 100 points from the first to the last frame of the clip, each once."""
    length = clip[1] - clip[0]
    return np.unique(clip[0] + np.rint(np.arange(POINTS) / (POINTS - 1) * (length - 1)).astype(np.int64))


def score(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
    """Scores of one tube.

    tIoU compares first and last frame (inclusive) as fractions of the clip, the truth's rounded to 3 places, the prediction's
    with the part of a frame that its seconds have. Boxes count at grid frames, predicted ones inside the predicted span only;
    vIoU is divided by the frames that have a box on either side (a gap between the spans does not count), sIoU by those that
    have one on both. A video without a prediction is left out; an unreadable answer is the span 0 to 0 with all its boxes.
    """
    if answer.outcome in ("missing", "failed"):
        return left_out(native.STVG_COLUMNS, "no prediction")

    tube = TrueTube.of(row, rules.gt_shift, rules.gt_end_shift)
    clip_first, steps = tube.clip[0], tube.clip[1] - tube.clip[0] - 1
    if steps == 0:
        return stopped(native.STVG_COLUMNS, "a clip of one frame: division by zero")

    scored, (first, last), (start, end) = answer.outcome == "scored", answer.span_frames, answer.span_edges
    true_span = [round((frame - clip_first) / steps, 3) for frame in (tube.start, tube.end - 1)]
    span = [(edge - clip_first) / steps for edge in (start, end - 1)] if scored else [0.0, 0.0]
    hull = max(span[1], true_span[1]) - min(span[0], true_span[0])
    if hull == 0:
        return stopped(native.STVG_COLUMNS, "the hull of the spans is empty: division by zero")

    on_grid = grid(tube.clip)
    has_true = (tube.start <= on_grid) & (on_grid < tube.end)
    has_predicted = answer.has_box_at(on_grid)
    if scored:
        has_predicted &= (first <= on_grid) & (on_grid < last)

    frames = on_grid[has_true & has_predicted]
    ious = raw_box_iou(answer.boxes_at(frames), tube.boxes_at(frames), nothing=0.0)
    values = {
        "tIoU": max(max(min(span[1], true_span[1]) - max(span[0], true_span[0]), 0.0) / hull, 0.0),
        "vIoU": float(ious.sum() / max((has_true | has_predicted).sum(), 1)),
        "sIoU": float(ious.sum() / max(len(frames), 1)),
    }
    plain = native.score_tube(tube, answer).values
    quirks = []
    if changed(values, plain, "tIoU"):
        quirks.append("span compared between first and last frame, the truth rounded to 3 places,")

    if changed(values, plain, "vIoU"):
        quirks.append("only frames of the 100-point grid counted in m_vIoU")

    if changed(values, plain, "sIoU"):
        quirks.append("only grid frames of both spans counted in m_sIoU")

    return Scored(values, nan_reason(ious, frames), quirks=tuple(quirks))


def figures(columns: dict[str, np.ndarray], rules: Rules) -> dict[str, np.ndarray]:
    """As `native`, but vIoU@R is the share of items at or above R."""
    at_least = {f"vIoU@{r}": columns["vIoU"] >= r for r in native.STVG_THRESHOLDS}
    return {**native.stvg_figures(columns, rules), **at_least}


SCORERS = {"stvg": Scorer(native.STVG_COLUMNS, on_source_boxes(score), figures)}
