"""`hcstvg`: the organisers' script; frames count where both sides have a box, over the inclusive hull of both spans."""

from ...data.schema import AnnotationRow
from ..answer import Answer
from ..iou import raw_box_iou
from ..truth import TrueTube
from . import native
from .comparison import changed, nan_reason
from .scorer import Rules, Scored, Scorer, stopped
from .source import on_source_boxes


def score(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
    """TIoU is the number of frames with a box on both sides, by the hull; vIoU the sum of their IoUs, by the same.

    A predicted box counts inside the predicted span only. A frame without one adds 0 to both scores. No prediction: 0.
    """
    tube = TrueTube.of(row, rules.gt_shift, rules.gt_end_shift)
    if tube.end <= tube.start:
        return stopped(native.STVG_COLUMNS, "the true span is empty after --gt-end-shift")

    if answer.outcome != "scored":
        return Scored({"tIoU": 0.0, "vIoU": 0.0, "sIoU": None})

    first, last = answer.span_frames
    frames = tube.frames
    frames = frames[(first <= frames) & (frames < last)]
    frames = frames[answer.has_box_at(frames)]
    ious = raw_box_iou(answer.boxes_at(frames), tube.boxes_at(frames), nothing=0.0)
    # Inclusive ends and + 1 there; half-open here: the same number.
    hull = max(last, tube.end) - min(first, tube.start)
    values = {"tIoU": len(frames) / hull, "vIoU": float(ious.sum() / hull), "sIoU": None}
    plain = native.score_tube(tube, answer).values
    quirks = ("frames without a predicted box lower tIoU, too,",) if changed(values, plain, "tIoU") else ()
    return Scored(values, nan_reason(ious, frames), quirks=quirks)


UNDEFINED = {"m_sIoU": "the organisers' script has no score over the true span"}
SCORERS = {"stvg": Scorer(native.STVG_COLUMNS, on_source_boxes(score), native.stvg_figures, UNDEFINED)}
