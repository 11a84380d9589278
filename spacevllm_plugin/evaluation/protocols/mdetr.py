"""`mdetr`: MDETR's precision at 1 on referring expressions, which asks for a generalised IoU of 0.5."""

import numpy as np

from ...data.schema import AnnotationRow
from ..answer import Answer
from . import native
from .scorer import Rules, Scored, Scorer, stopped
from .source import on_source_boxes


COLUMNS = ("GIoU",)


def score(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
    """Generalised IoU in single precision. Stops without a box and, by an assertion, at a flipped one."""
    if answer.outcome != "scored":
        return stopped(COLUMNS, "no predicted box")

    box, truth = answer.prediction.boxes[0].astype(np.float32), np.array(row.target.boxes[0], dtype=np.float32)
    if not (box[2:] >= box[:2]).all():
        return stopped(COLUMNS, "the predicted box is flipped or not a number")

    inter = (np.minimum(box[2:], truth[2:]) - np.maximum(box[:2], truth[:2])).clip(min=0).prod()
    union = (box[2:] - box[:2]).prod() + (truth[2:] - truth[:2]).prod() - inter
    hull = (np.maximum(box[2:], truth[2:]) - np.minimum(box[:2], truth[:2])).prod()
    giou = float(inter / union - (hull - union) / hull)
    hit = native.score_rec(row, answer, rules).values["IoU"] >= native.REC_THRESHOLD
    quirks = ("generalised IoU turned a hit into a miss",) if hit and giou < native.REC_THRESHOLD else ()
    return Scored({"GIoU": giou}, None if np.isfinite(giou) else "the predicted box is infinite", quirks=quirks)


def figures(columns: dict[str, np.ndarray], rules: Rules) -> dict[str, np.ndarray]:
    """Share of items at or above the threshold."""
    return native.rec_figures({"IoU": columns["GIoU"]}, rules)


SCORERS = {"rec": Scorer(COLUMNS, on_source_boxes(score), figures)}
