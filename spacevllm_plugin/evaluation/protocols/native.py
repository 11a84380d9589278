"""`native`, the headline protocol: every native frame and every item counts, and nothing is left out of a mean."""

import numpy as np

from ...data.schema import AnnotationRow
from ...data.tube import interpolate_boxes
from ..answer import Answer
from ..iou import box_iou, span_iou
from .scorer import Scorer


STVG_THRESHOLDS = (0.3, 0.5)
VTG_THRESHOLDS = (0.3, 0.5, 0.7)
REC_THRESHOLD = 0.5


def score_stvg(row: AnnotationRow, answer: Answer) -> dict[str, float]:
    """Scores of one tube.

    tIoU compares half-open spans of native frames. vIoU is the sum of the box IoUs over the frames in both spans,
    divided by the number of frames in either. sIoU is the mean box IoU over the ground truth's span, whatever span was
    predicted. A frame without a predicted box adds 0.

    A missing or failed answer scores 0 throughout. An unreadable one has no span, so tIoU = vIoU = 0; but its boxes
    come from the prefill, independent of the text, so it keeps the sIoU that they earn.
    """
    start, end = row.target.span_frames
    frames = np.arange(start, end)
    truth = interpolate_boxes(row.target.frames, row.target.boxes, frames)
    ious = box_iou(answer.boxes_at(frames), truth)

    t_iou = v_iou = 0.0
    first, last = answer.span_frames
    common = slice(max(first, start) - start, max(min(last, end) - start, 0))
    if first < last and common.start < common.stop:
        t_iou = span_iou((first, last), (start, end))
        v_iou = ious[common].sum() / (max(last, end) - min(first, start))

    return {"tIoU": t_iou, "vIoU": float(v_iou), "sIoU": float(ious.mean())}


def summarise_stvg(items: list[dict]) -> dict[str, float]:
    """Means; vIoU@R is the share of items strictly above R."""
    v_ious = _column(items, "vIoU")
    return {
        "m_tIoU": float(_column(items, "tIoU").mean()),
        "m_vIoU": float(v_ious.mean()),
        **{f"vIoU@{r}": float((v_ious > r).mean()) for r in STVG_THRESHOLDS},
        "m_sIoU": float(_column(items, "sIoU").mean()),
    }


def score_vtg(row: AnnotationRow, answer: Answer) -> dict[str, float]:
    """IoU of the spans in seconds; 0 without a span."""
    return {"IoU": span_iou(answer.span_seconds, row.target.span_seconds)}


def summarise_vtg(items: list[dict]) -> dict[str, float]:
    """Mean; R1@R is the share of items at or above R."""
    ious = _column(items, "IoU")
    return {"mIoU": float(ious.mean()), **{f"R1@{r}": float((ious >= r).mean()) for r in VTG_THRESHOLDS}}


def score_rec(row: AnnotationRow, answer: Answer) -> dict[str, float]:
    """Plain IoU of the two boxes; an answer that is not `scored` is a miss."""
    if answer.outcome != "scored":
        return {"IoU": 0.0}

    return {"IoU": float(box_iou(np.array(answer.prediction.boxes[0]), np.array(row.target.boxes[0])))}


def summarise_rec(items: list[dict]) -> dict[str, float]:
    """Share of items at or above the threshold."""
    return {f"Acc@{REC_THRESHOLD}": float((_column(items, "IoU") >= REC_THRESHOLD).mean())}


def _column(items: list[dict], name: str) -> np.ndarray:
    return np.array([item[name] for item in items])


SCORERS = {
    "stvg": Scorer(score_stvg, summarise_stvg),
    "vtg": Scorer(score_vtg, summarise_vtg),
    "rec": Scorer(score_rec, summarise_rec),
}
