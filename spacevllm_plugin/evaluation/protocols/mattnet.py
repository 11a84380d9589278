"""`mattnet`: MAttNet's IoU of whole-pixel boxes, for which an overlap of up to one pixel is none."""

import numpy as np

from ...data.schema import AnnotationRow
from ..answer import Answer
from . import native
from .scorer import Rules, Scored, Scorer, stopped
from .source import on_source_boxes


def score(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
    """IoU of boxes (x, y, w, h) whose last pixel is x + w - 1; the overlap's width is last - first + 1 again.

    So it is the plain IoU, except that an overlap whose first and last pixel are the same counts as none. No box: a miss.
    """
    if answer.outcome != "scored":
        return Scored({"IoU": 0.0})

    box, truth = answer.prediction.boxes[0], np.array(row.target.boxes[0])
    first, last = np.maximum(box[:2], truth[:2]), np.minimum(box[2:], truth[2:]) - 1
    inter = float((last - first + 1).prod()) if (first < last).all() else 0.0
    union = float((box[2:] - box[:2]).prod() + (truth[2:] - truth[:2]).prod()) - inter
    if union == 0:
        return stopped(("IoU",), "division by zero: the predicted box is flipped and as large as the true one")

    iou = inter / union
    plain = native.score_rec(row, answer, rules).values["IoU"]
    hits = [value >= native.REC_THRESHOLD for value in (iou, plain)]
    quirks = ("an overlap of one pixel did not count",) if hits[0] != hits[1] else ()
    return Scored({"IoU": iou}, None if np.isfinite(iou) else "the predicted box is not a number", quirks=quirks)


SCORERS = {"rec": Scorer(("IoU",), on_source_boxes(score), native.rec_figures)}
