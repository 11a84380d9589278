"""Matching predictions with annotations, and what comes out: items, groups, counts."""

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass

from ..data.schema import AnnotationRow, PredictionRow, RowError
from .answer import OUTCOMES, Fill, read_answer
from .protocols import PROTOCOLS


ALL = "all"


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of one task under one protocol.

    Attributes:
        task: `stvg`, `vtg` or `rec`.
        protocol: Name of the protocol.
        items: One dict per annotation row of the task, in their order: `id`, `group`, the scores as fractions
            (stvg: `tIoU`, `vIoU`, `sIoU`; else `IoU`), and `error`, None for an answer that could be scored.
        counts: How many items were `scored`, `missing`, `unreadable`, `failed`.
        unknown_ids: Predictions whose id no annotation row (of any task) has.
    """

    task: str
    protocol: str
    items: list[dict]
    counts: dict[str, int]
    unknown_ids: list[str]

    def report(self) -> dict:
        """Figures per group of the rows, and over all of them: the plain mean over items, not over groups."""
        groups: dict[str, list[dict]] = {}
        for item in self.items:
            if item["group"] not in (None, ALL):
                groups.setdefault(item["group"], []).append(item)

        summarise = PROTOCOLS[self.protocol][self.task].summarise
        return {
            "task": self.task,
            "protocol": self.protocol,
            "groups": {
                name: {"n": len(items), **summarise(items)} for name, items in {**groups, ALL: self.items}.items()
            },
            "counts": self.counts,
        }


def evaluate(
    task: str,
    rows: Iterable[AnnotationRow],
    predictions: Iterable[PredictionRow],
    protocol: str = "native",
    fill: Fill = "linear",
) -> EvaluationResult:
    """Score predictions.

    Args:
        task: `stvg`, `vtg` or `rec`; rows of other tasks are passed over, so a mixture can be scored task by task.
        rows: What is to be found. Every row of the task counts, answered or not.
        predictions: At most one for each row, in any order.
        protocol: A name from `PROTOCOLS`.
        fill: `linear` interpolates between the predicted boxes and holds the first and last over the clip; `none`
            scores them exactly as given.

    Raises:
        RowError: An id occurs twice, a prediction's boxes do not fit its frames, or no row is of this task.
    """
    scorer = PROTOCOLS[protocol][task]
    answers = {}
    for prediction in predictions:
        _refuse_repeated(prediction.id, answers, "prediction")
        answers[prediction.id] = prediction

    items = []
    counts: Counter[str] = Counter()
    # The annotations are not kept: tubes are large, and a file is read row by row.
    ids = set()
    for row in rows:
        _refuse_repeated(row.id, ids, "annotation")
        ids.add(row.id)
        if row.task != task:
            continue

        answer = read_answer(row, answers.get(row.id), fill)
        counts[answer.outcome] += 1
        items.append({"id": row.id, "group": row.group, **scorer.score(row, answer), "error": answer.error})

    if not items:
        raise RowError(f"no {task} row among the {len(ids)} annotations")

    return EvaluationResult(
        task=task,
        protocol=protocol,
        items=items,
        counts={outcome: counts[outcome] for outcome in OUTCOMES},
        unknown_ids=[row_id for row_id in answers if row_id not in ids],
    )


def _refuse_repeated(row_id: str, known: Container[str], what: str) -> None:
    if row_id in known:
        raise RowError(f"two {what} rows have the id {row_id}")
