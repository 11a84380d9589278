"""Grounding a whole file of rows: batched, resumable, no row lost and none done twice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..data.jsonl import append_lines, recover
from ..data.schema import AnnotationRow, PredictionRow, dump_row
from ..data.video import MediaError
from .grounding import ground_batch


if TYPE_CHECKING:
    from ..integration.engine import Engine


def finished_ids(out: Path) -> set[str]:
    """Ids already in the file; a last line that a killed run left unfinished is cut off."""
    return {json.loads(line)["id"] for _, line in recover(out)}


def predict_rows(
    engine: "Engine", rows: Iterator[AnnotationRow], media_dir: Path, out: Path, batch_size: int, max_new_tokens: int
) -> dict[str, int]:
    """Ground rows and append one prediction each to `out`.

    Args:
        engine: The loaded model.
        rows: Annotation rows; targets and answers are not looked at.
        media_dir: Where relative media paths start.
        out: JSONL file of prediction rows; rows whose id is in it already are passed over.
        batch_size: Rows per generation.
        max_new_tokens: Longest answer, in tokens.

    Returns:
        Counts by status, and `skipped` for the rows already there.
    """
    from ..integration.engine import row_item

    done = finished_ids(out)
    counts = {"ok": 0, "unreadable": 0, "failed": 0, "skipped": 0}
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "ab") as file:

        def write(predictions: list[PredictionRow]) -> None:
            for prediction in predictions:
                counts[prediction.status] += 1

            # One write of whole lines: a killed process leaves at most one unfinished line, which is cut off above.
            append_lines(file, map(dump_row, predictions))

        batch = []
        for row in tqdm(rows, unit="row", desc="predict"):
            if row.id in done:
                counts["skipped"] += 1
                continue

            done.add(row.id)
            try:
                batch.append(row_item(engine, row, media_dir))
            except MediaError as err:
                write([PredictionRow(id=row.id, status="failed", error=str(err))])

            if len(batch) == batch_size:
                write(_ground(engine, batch, max_new_tokens))
                batch = []

        if batch:
            write(_ground(engine, batch, max_new_tokens))

    return counts


def _ground(engine: "Engine", batch: list, max_new_tokens: int) -> list[PredictionRow]:
    """Ground a batch; where a medium cannot be decoded, one by one, so that only its row fails."""
    try:
        return ground_batch(engine.model, engine.prompter, batch, max_new_tokens)
    except MediaError as err:
        if len(batch) == 1:
            return [PredictionRow(id=batch[0].id, status="failed", error=str(err))]

        return [prediction for item in batch for prediction in _ground(engine, [item], max_new_tokens)]
