"""`native`, the headline protocol: every native frame and every item counts, and nothing is left out of a mean."""

import numpy as np

from ...data.schema import AnnotationRow
from ..answer import Answer
from ..choice import Question, read_choice
from ..iou import box_iou, span_iou
from ..retrieval import MAP_THRESHOLDS, average_precisions
from ..truth import TrueTube
from .scorer import Rules, Scored, Scorer, stopped


STVG_COLUMNS = ("tIoU", "vIoU", "sIoU")
STVG_THRESHOLDS = (0.3, 0.5)
VTG_THRESHOLDS = (0.3, 0.5, 0.7)
REC_THRESHOLD = 0.5


def score_stvg(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
    """Scores of one tube; see `score_tube`."""
    return score_tube(TrueTube.of(row, rules.gt_shift, rules.gt_end_shift), answer)


def score_tube(tube: TrueTube, answer: Answer) -> Scored:
    """Scores of one tube.

    tIoU compares half-open spans of native frames. vIoU is the sum of the box IoUs over the frames in both spans,
    divided by the number of frames in either. sIoU is the mean box IoU over the ground truth's span, whatever span was
    predicted. A frame without a predicted box adds 0.

    A missing or failed answer scores 0 throughout. An unreadable one has no span, so tIoU = vIoU = 0; but its boxes
    come from the prefill, independent of the text, so it keeps the sIoU that they earn.
    """
    if tube.end <= tube.start:
        return stopped(STVG_COLUMNS, "the true span is empty after --gt-end-shift")

    frames = tube.frames
    ious = box_iou(answer.boxes_at(frames), tube.boxes_at(frames))

    t_iou = v_iou = 0.0
    first, last = answer.span_frames
    common = slice(max(first, tube.start) - tube.start, max(min(last, tube.end) - tube.start, 0))
    if first < last and common.start < common.stop:
        t_iou = span_iou((first, last), (tube.start, tube.end))
        v_iou = ious[common].sum() / (max(last, tube.end) - min(first, tube.start))

    return Scored({"tIoU": t_iou, "vIoU": float(v_iou), "sIoU": float(ious.mean())})


def stvg_figures(columns: dict[str, np.ndarray], rules: Rules) -> dict[str, np.ndarray]:
    """Means; vIoU@R is the share of items strictly above R."""
    return {
        "m_tIoU": columns["tIoU"],
        "m_vIoU": columns["vIoU"],
        **{f"vIoU@{r}": columns["vIoU"] > r for r in STVG_THRESHOLDS},
        "m_sIoU": columns["sIoU"],
    }


def score_vtg(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
    """IoU of the spans in seconds; 0 without a span. Where several spans are right, the best of them counts.

    Rows with `target.windows_seconds` also get `AP`: the average precision of the ranked predicted spans, averaged over
    the IoU thresholds as in QVHighlights' moment retrieval; `AP@0.5` and `AP@0.75` are its parts at these two.
    """
    windows = row.target.windows_seconds or [row.target.span_seconds]
    iou = max(span_iou(answer.span_seconds, window) for window in windows)
    if row.target.windows_seconds is None:
        return Scored({"IoU": iou})

    precisions = average_precisions(answer.windows_seconds, windows)
    at = dict(zip(MAP_THRESHOLDS, precisions.tolist()))
    return Scored({"IoU": iou, "AP": float(precisions.mean()), "AP@0.5": at[0.5], "AP@0.75": at[0.75]})


def vtg_figures(columns: dict[str, np.ndarray], rules: Rules) -> dict[str, np.ndarray]:
    """Mean; R1@R is the share of items at or above R (above, if `strict`); mAP where rows have several spans."""
    ious = columns["IoU"]
    figures = {"mIoU": ious}
    figures.update({f"R1@{r}": ious > r if rules.strict else ious >= r for r in VTG_THRESHOLDS})
    if "AP" in columns:
        figures.update({"mAP": columns["AP"], "mAP@0.5": columns["AP@0.5"], "mAP@0.75": columns["AP@0.75"]})

    return figures


def score_rec(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
    """Plain IoU of the two boxes; an answer that is not `scored` is a miss."""
    if answer.outcome != "scored":
        return Scored({"IoU": 0.0})

    return Scored({"IoU": float(box_iou(answer.prediction.boxes[0], np.array(row.target.boxes[0])))})


def rec_figures(columns: dict[str, np.ndarray], rules: Rules) -> dict[str, np.ndarray]:
    """Share of items at or above the threshold."""
    return {f"Acc@{REC_THRESHOLD}": columns["IoU"] >= REC_THRESHOLD}


def score_qa(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
    """1 for the right option; an answer that names none is wrong and stays in the denominator."""
    question = Question.of(row)
    right = answer.outcome == "scored" and read_choice(answer.prediction.text, question) == question.truth
    return Scored({"correct": float(right)})


def qa_figures(columns: dict[str, np.ndarray], rules: Rules) -> dict[str, np.ndarray]:
    """Share of right answers."""
    return {"accuracy": columns["correct"]}


SCORERS = {
    "stvg": Scorer(STVG_COLUMNS, score_stvg, stvg_figures),
    "vtg": Scorer(("IoU",), score_vtg, vtg_figures),
    "rec": Scorer(("IoU",), score_rec, rec_figures),
    "qa": Scorer(("correct",), score_qa, qa_figures),
}
