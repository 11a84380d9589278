"""The items a model did worst on, as pictures."""

import shutil
from typing import Any

from ..data.schema import PredictionRow, read_rows
from ..data.video import MediaError
from ..evaluation import EvaluationResult
from ..inference.draw_row import draw_row, file_name
from ..inference.render import tube_from_prediction, tube_from_target
from .folder import RunFolder


COUNT = 6
# Task -> columns to rank by; the later ones part items that are all at 0.
ORDER = {"stvg": ("vIoU", "tIoU", "sIoU"), "vtg": ("IoU",), "rec": ("IoU",)}


def draw_worst(run: RunFolder, result: EvaluationResult) -> list[dict[str, Any]]:
    """Draw the worst answered items into `worst/`; those without an answer have nothing to show.

    Returns:
        For each `id`, its scores, the `text` answered, and `picture`, the path below the run's folder; None with `error`
        where it could not be drawn. Empty for qa.
    """
    columns = ORDER.get(result.task)
    if columns is None:
        return []

    answered = {p.id for p in read_rows(run.predictions, PredictionRow) if p.status != "failed"}
    items = [item for item in result.items if item["id"] in answered]
    items = sorted(items, key=lambda item: [item[column] for column in columns])[:COUNT]
    wanted = {item["id"] for item in items}
    rows = {row.id: row for row in run.rows() if row.id in wanted}
    predictions = {p.id: p for p in read_rows(run.predictions, PredictionRow) if p.id in wanted}

    folder = run.out / "worst"
    # Pictures of an earlier report would stand beside these.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return [
        _draw(run, number, rows[item["id"]], predictions[item["id"]], {column: item[column] for column in columns})
        for number, item in enumerate(items, start=1)
    ]


def _draw(run: RunFolder, number: int, row: Any, prediction: PredictionRow, scores: dict) -> dict[str, Any]:
    entry = {"id": row.id, **scores, "text": prediction.text}
    stem = run.out / "worst" / f"{number:02}_{file_name(row.id)}"
    tubes = [tube_from_target(row), tube_from_prediction(prediction)]
    try:
        (picture,) = draw_row(row, tubes, run.media_dir, stem)
    except (MediaError, OSError) as err:
        # The file's name, not where it lies: a report is the same wherever it is made.
        return {**entry, "picture": None, "error": type(err).__name__}

    return {**entry, "picture": f"worst/{picture.name}"}
