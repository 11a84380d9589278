"""Matching predictions with annotations, and what comes out: items, groups, counts."""

import math
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass

import numpy as np

from ..data.schema import AnnotationRow, PredictionRow, RowError
from ..data.shortened import shortened
from .answer import OUTCOMES, Fill, Prediction, read_answer
from .protocols import PROTOCOLS, Rules
from .report import ALL, summarise


__all__ = ["ALL", "EvaluationResult", "evaluate"]


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of one task under one protocol.

    Attributes:
        task: `stvg`, `vtg`, `rec` or `qa`.
        protocol: Name of the protocol.
        rules: What the user chose.
        items: One dict per annotation row of the task, in their order: `id`, `group`, the scores as fractions
            (stvg: `tIoU`, `vIoU`, `sIoU`; qa: `correct`; else `IoU`; None where the protocol has none) and `error`, None
            for an answer that could be scored.
        stops: For each item whether the published code would stop at it.
        counted: For each item whether it is part of the means.
        tags: For each item the row's `tags`.
        counts: How many items were `scored`, `missing`, `unreadable`, `failed`.
        quirks: What the protocol did otherwise than `native` -> on how many items that changed a number.
        unknown_ids: Predictions whose id no annotation row (of any task) has.
    """

    task: str
    protocol: str
    rules: Rules
    items: list[dict]
    stops: list[bool]
    counted: list[bool]
    tags: list[dict[str, str]]
    counts: dict[str, int]
    quirks: dict[str, int]
    unknown_ids: list[str]

    @property
    def warnings(self) -> list[str]:
        """One line for each quirk of the protocol that changed a number."""
        return [
            f"{self.protocol}: {quirk} on {count} item{'s' if count > 1 else ''}"
            for quirk, count in self.quirks.items()
        ]

    def report(self, resamples: int = 0, seed: int = 0) -> dict:
        """Figures per group of the rows, and over all of them: the plain mean over items, not over groups.

        Args:
            resamples: Bootstrap resamples for the confidence intervals; 0 for none.
            seed: Of the bootstrap.

        Returns:
            The `evaluate` command's JSON; see `summarise` for a group.
        """
        members: dict[str, list[int]] = {}
        for index, item in enumerate(self.items):
            if item["group"] not in (None, ALL):
                members.setdefault(item["group"], []).append(index)

        members[ALL] = list(range(len(self.items)))
        report = {
            "task": self.task,
            "protocol": self.protocol,
            "groups": {name: self._summarise(indices, resamples, seed) for name, indices in members.items()},
            "counts": self.counts,
        }
        breakdown: dict[str, dict[str, list[int]]] = {}
        for index, tags in enumerate(self.tags):
            for name, value in tags.items():
                breakdown.setdefault(name, {}).setdefault(value, []).append(index)

        if breakdown:
            report["breakdown"] = {
                name: {value: self._summarise(indices, resamples, seed) for value, indices in values.items()}
                for name, values in breakdown.items()
            }

        if "error" in report["groups"][ALL]:
            report["error"] = f"{self.protocol} stops: {report['groups'][ALL]['error']}"

        if self.warnings:
            report["warnings"] = self.warnings

        return {**report, **{name: value for name, value in asdict(self.rules).items() if value}}

    def _summarise(self, indices: list[int], resamples: int, seed: int) -> dict:
        scorer = PROTOCOLS[self.protocol][self.task]
        stopping = [self.items[i] for i in indices if self.stops[i]]
        items = [self.items[i] for i in indices if self.counted[i]]
        return summarise(scorer, self.rules, items, stopping, resamples, seed)


def evaluate(
    task: str,
    rows: Iterable[AnnotationRow],
    predictions: Iterable[PredictionRow],
    protocol: str = "native",
    fill: Fill = "linear",
    rules: Rules = Rules(),
) -> EvaluationResult:
    """Score predictions.

    Args:
        task: `stvg`, `vtg`, `rec` or `qa`; rows of other tasks are passed over, so a mixture can be scored task by task.
        rows: What is to be found. Every row of the task counts, answered or not.
        predictions: At most one for each row, in any order.
        protocol: A name from `PROTOCOLS`.
        fill: `linear` interpolates between the predicted boxes and holds the first and last over the clip; `none`
            scores them exactly as given.
        rules: What else the user may choose.

    Raises:
        RowError: An id occurs twice, a prediction's boxes do not fit its frames, or no row is of this task.
    """
    scorer = PROTOCOLS[protocol][task]
    answers = {}
    for prediction in predictions:
        _refuse_repeated(prediction.id, answers, "prediction")
        answers[prediction.id] = Prediction.of(prediction)

    items, stops, counted, tags = [], [], [], []
    counts: Counter[str] = Counter()
    quirks: Counter[str] = Counter()
    # The annotations are not kept: tubes are large, and a file is read row by row.
    ids = set()
    for row in rows:
        _refuse_repeated(row.id, ids, "annotation")
        ids.add(row.id)
        if row.task != task:
            continue

        answer = read_answer(row, answers.get(row.id), fill)
        # Predicted boxes may be of any size: what overflows is infinite, or not a number, and scored as such.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            scored = scorer.score(row, answer, rules)

        counts[answer.outcome] += 1
        quirks.update(scored.quirks)
        values = {name: None if value is None or math.isnan(value) else value for name, value in scored.values.items()}
        error = scored.error if scored.stops else answer.error or scored.error
        items.append({"id": row.id, "group": row.group, **values, "error": error})
        stops.append(scored.stops)
        counted.append(scored.counted)
        tags.append(row.tags or {})

    if not items:
        raise RowError(f"no {task} row among the {len(ids)} annotations")

    return EvaluationResult(
        task=task,
        protocol=protocol,
        rules=rules,
        items=items,
        stops=stops,
        counted=counted,
        tags=tags,
        counts={outcome: counts[outcome] for outcome in OUTCOMES},
        quirks=dict(quirks),
        unknown_ids=[row_id for row_id in answers if row_id not in ids],
    )


def _refuse_repeated(row_id: str, known: Container[str], what: str) -> None:
    if row_id in known:
        raise RowError(f"two {what} rows have the id {shortened(row_id)}")
