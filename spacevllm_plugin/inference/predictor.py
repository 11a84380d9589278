"""Grounding a whole file of rows: batched, resumable, no row lost and none done twice."""

from collections.abc import Container, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from tqdm import tqdm

from ..data.jsonl import append_lines, recover
from ..data.output import appended, replaced
from ..data.prompt_rules import PromptError
from ..data.schema import AnnotationRow, PredictionRow, RowError, dump_row
from ..data.video import MediaError
from .batches import media_batches, media_of
from .engine import Engine, row_media
from .grounding import GroundingItem, ground_batch, sharing


def finished(out: Path) -> Iterator[tuple[str, bytes]]:
    """Id and line of every prediction already in the file; a last line that a killed run left unfinished is cut off.

    Raises:
        RowError: The file holds something else, and is left as it is.
    """
    for number, (_, line) in enumerate(recover(out), start=1):
        try:
            row_id = from_json(line)["id"]
        except (ValueError, TypeError, KeyError):
            row_id = None

        if not isinstance(row_id, str):
            raise RowError(f"{out}:{number}: not a prediction row; remove the file, or name another one")

        yield row_id, line


@dataclass(frozen=True)
class BatchWork:
    """Grounds a batch of rows: the same answer to the last bit wherever it runs, on one machine.

    Attributes:
        engine: The loaded model.
        media_dir: Where relative media paths start.
        batch_size: Most rows per generation.
        max_new_tokens: Longest answer, in tokens.
    """

    engine: Engine
    media_dir: Path
    batch_size: int
    max_new_tokens: int

    def __call__(self, rows: Iterable[AnnotationRow]) -> list[PredictionRow]:
        """One prediction for each row, in order."""
        located = [(row, *row_media(row, self.media_dir)) for row in rows]
        return ground_rows(self.engine, located, self.max_new_tokens, self.batch_size)


def predict_rows(
    engine: Engine,
    rows: Iterable[AnnotationRow],
    media_dir: Path | str,
    out: Path,
    batch_size: int,
    max_new_tokens: int,
    done: Container[str] = (),
    share: tuple[int, int] = (0, 1),
) -> dict[str, int]:
    """Ground rows and append one prediction each to `out`.

    Batches are cut from all rows, done or not, so a row meets the same neighbours, and gets the same answer to the last
    bit, however often the run was interrupted and however many processes share it. Rows about the same media are put into
    the same batch, see `media_batches`, and share what is read of these; `sort_predictions` brings the rows' order back.

    Args:
        engine: The loaded model.
        rows: Annotation rows; targets and answers are not looked at.
        media_dir: Where relative media paths start; may be an address.
        out: JSONL file of prediction rows; rows whose id is in it already are passed over.
        batch_size: Most rows per generation.
        max_new_tokens: Longest answer, in tokens.
        done: Ids of further rows to pass over.
        share: This process's number and the number of processes; they take batches in turn.

    Returns:
        Counts by status, and `skipped` for the rows already there; of this process's share.

    Raises:
        StorageError: The storage of a medium cannot be reached: no row's fault, and none fails of it. What is in the file
            stays, and the next run goes on from there.
    """
    own = {row_id for row_id, _ in finished(out)}
    counts = {"ok": 0, "unreadable": 0, "failed": 0, "skipped": 0}
    work = BatchWork(engine, media_dir, batch_size, max_new_tokens)
    bar = tqdm(total=len(rows) if isinstance(rows, Sized) else None, unit="row", desc="predict")
    with bar, appended(out) as file:
        for number, batch in enumerate(media_batches(rows, batch_size, media_of)):
            bar.update(len(batch))
            if number % share[1] != share[0]:
                continue

            wanted = {row.id for row in batch if row.id not in own and row.id not in done}
            counts["skipped"] += len(batch) - len(wanted)
            if not wanted:
                continue

            fresh = {p.id: p for p in work(batch) if p.id in wanted}
            own |= wanted
            for prediction in fresh.values():
                counts[prediction.status] += 1

            # One write of whole lines: a killed process leaves at most one unfinished line, which is cut off above.
            append_lines(file, map(dump_row, fresh.values()))

    return counts


def sort_predictions(out: Path, ids: Iterable[str]) -> None:
    """Put a file's predictions into the order of their rows, where it has another; those of other rows come last."""
    lines = dict(finished(out))
    order = list(dict.fromkeys([*(row_id for row_id in ids if row_id in lines), *lines]))
    if order != list(lines):
        with replaced(out) as file:
            file.writelines(lines[row_id] for row_id in order)


def ground_rows(
    engine: Engine,
    rows: Iterable[tuple[AnnotationRow, list[Any], list[Any]]],
    max_new_tokens: int,
    rows_at_once: int | None = None,
) -> list[PredictionRow]:
    """Ground a batch of rows, each with its images and videos; one of which no prompt can be made fails alone.

    Args:
        engine: The loaded model.
        rows: The rows.
        max_new_tokens: Longest answer, in tokens.
        rows_at_once: See `ground_batch`.
    """
    items: list[GroundingItem | PredictionRow] = []
    for row, images, videos in rows:
        try:
            items.append(engine.row_item(row, images, videos))
        except (MediaError, PromptError) as err:
            items.append(_failed(row.id, err))

    readable = [item for item in items if isinstance(item, GroundingItem)]
    predictions = iter(ground_readable(engine, readable, max_new_tokens, rows_at_once) if readable else [])
    return [next(predictions) if isinstance(item, GroundingItem) else item for item in items]


def ground_readable(
    engine: Engine, batch: list[GroundingItem], max_new_tokens: int, rows_at_once: int | None = None
) -> list[PredictionRow]:
    """Ground a batch; where a medium cannot be decoded, one by one, so that only its rows fail."""
    try:
        return ground_batch(engine.model, engine.prompter, batch, max_new_tokens, rows_at_once)
    except MediaError as err:
        if len(batch) == 1:
            return [_failed(batch[0].id, err)]

    # Those that share what they show stay together, but where it is just this that cannot be read.
    shared, apart = sharing(engine.model, engine.prompter, batch)
    parts = (
        [*shared, *([place] for place in apart)] if len(shared) + len(apart) > 1 else [[i] for i in range(len(batch))]
    )
    predictions: dict[int, PredictionRow] = {}
    for places in parts:
        some = [batch[place] for place in places]
        predictions |= zip(places, ground_readable(engine, some, max_new_tokens, rows_at_once))

    return [predictions[place] for place in range(len(batch))]


def _failed(row_id: str, err: MediaError) -> PredictionRow:
    return PredictionRow(id=row_id, status="failed", error=str(err))
