"""`qwenvl`: Qwen-VL's precision on referring expressions: plain IoU in single precision, no box is the box (0, 0, 0, 0)."""

import numpy as np

from ...data.schema import AnnotationRow
from ..answer import Answer
from ..iou import raw_box_iou
from . import native
from .scorer import Rules, Scored, Scorer
from .source import on_source_boxes


def score(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
    """IoU of the two boxes in single precision; an answer without a box is a miss that stays in the denominator."""
    box = answer.prediction.boxes[0] if answer.outcome == "scored" else np.zeros(4)
    iou = float(raw_box_iou(box.astype(np.float32), np.array(row.target.boxes[0], dtype=np.float32)))
    plain = native.score_rec(row, answer, rules).values["IoU"]
    hits = [value >= native.REC_THRESHOLD for value in (iou, plain)]
    quirks = ("single precision decided between hit and miss",) if hits[0] != hits[1] and not np.isnan(iou) else ()
    return Scored({"IoU": iou}, "the box IoU is 0/0 or not a number" if np.isnan(iou) else None, quirks=quirks)


SCORERS = {"rec": Scorer(("IoU",), on_source_boxes(score), native.rec_figures)}
