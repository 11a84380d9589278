"""Predictions by many workers: each piece becomes a shard, and all shards the file that one process writes."""

import hashlib
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..data.output import replaced
from ..data.schema import AnnotationRow, PredictionRow, dump_row, parse_row
from ..data.shards import Shards
from ..inference.batches import media_batches, media_of
from ..inference.predictor import BatchWork, finished
from .pieces import Piece, chunks
from .rounds import Answer, Crew, Stopped, work_off
from .worker import Work


if TYPE_CHECKING:
    from ..inference.engine import Engine


# Of a longer file a shard holds several batches: folders of millions of files are slow everywhere.
MOST_SHARDS = 20_000
# Seconds. A network's file system may go on saying for a minute that a file is not there.
ARRIVES_WITHIN = 90


@dataclass(frozen=True)
class Grounded:
    """What became of a piece, whose predictions are in the shard of its name.

    Attributes:
        status: id -> status.
        sampling: See `Engine.sampling`.
    """

    status: dict[str, str]
    sampling: dict[str, Any]


class Grounding:
    """The work of one worker.

    Args:
        work: Grounds a batch.
        shards: Where predictions go.
    """

    def __init__(self, work: BatchWork, shards: Shards) -> None:
        self._work, self._shards = work, shards

    def __call__(self, piece: Piece) -> Answer:
        """Ground a piece, or of one that was grounded before what failed then."""
        before = {prediction.id: prediction for prediction in _read(self._shards, piece.name)}
        predictions: dict[str, PredictionRow] = {}
        for batch in piece.batches:
            known = {row.id: before[row.id] for row in batch if row.id in before}
            predictions |= known if self._settled(batch, known) else {p.id: p for p in self._work(batch)}

        if predictions != before:
            self._shards.write(piece.name, map(dump_row, predictions.values()))

        failed = [p for p in predictions.values() if p.status == "failed"]
        problem = f"{len(failed)} failed, the first: {failed[0].id}: {failed[0].error}" if failed else None
        status = {p.id: p.status for p in predictions.values()}
        return Answer(Grounded(status, self._work.engine.sampling), problem)

    def _settled(self, batch: tuple[AnnotationRow, ...], known: dict[str, PredictionRow]) -> bool:
        """Whether trying again changes nothing: what failed fails again, by itself, which costs little.

        If it does not, the whole batch has to be grounded anew: with other neighbours last digits may differ.
        """
        if any(row.id not in known for row in batch):
            return False

        failed = [row for row in batch if known[row.id].status == "failed"]
        return all(prediction.status == "failed" for prediction in self._work(failed))


def make_grounding(
    load: Callable[[], "Engine"], media_dir: Path, batch_size: int, max_new_tokens: int, folder: Path
) -> Work:
    """Load the model, in a worker."""
    return Grounding(BatchWork(load(), media_dir, batch_size, max_new_tokens), Shards(folder))


def predict_shared(
    hire: Callable[[Callable[[], Work]], Crew],
    load: Callable[[], "Engine"],
    rows: Iterable[AnnotationRow],
    media_dir: Path,
    out: Path,
    batch_size: int,
    max_new_tokens: int,
    retries: int,
    tell: Callable[[str], None] = lambda line: None,
    done: Container[str] = (),
    sees: Callable[[dict[str, Any]], None] = lambda sampling: None,
) -> dict[str, int]:
    """Ground rows with many workers; `out` is then what `predict_rows` and `sort_predictions` make of it, to the byte.

    While it runs, shards lie in `OUT.shards`; a run that was killed goes on with those that are there.

    Args:
        hire: Makes the crew, from what makes the work.
        load: Loads the model in each worker; pickled.
        rows: Annotation rows.
        media_dir: Where relative media paths start.
        out: JSONL file of prediction rows; rows whose id is in it already are passed over.
        batch_size: Most rows per generation.
        max_new_tokens: Longest answer, in tokens.
        retries: Further tries of what failed or died.
        tell: Gets a line for each.
        done: Ids of further rows to pass over.
        sees: Gets `Engine.sampling` with the first answer.

    Returns:
        Counts by status, and `skipped` for the rows that were there already.

    Raises:
        Stopped: The model cannot be loaded, or the shards do not arrive here.
        RowError: `out` holds something else.
    """
    shards = Shards(shards_folder(out))
    rows = list(rows)
    ids = {row.id for row in rows}
    skipped = {row_id for row_id, _ in finished(out) if row_id in ids} | {i for i in ids if i in done}
    status: dict[str, str] = {}
    open_pieces: list[Piece] = []
    for piece in _cut(rows, batch_size):
        if all(row.id in skipped for row in piece.items):
            continue

        there = {prediction.id: prediction.status for prediction in _read(shards, piece.name)}
        if there and "failed" not in there.values():
            status |= there
        else:
            open_pieces.append(piece)

    if open_pieces:
        make = partial(make_grounding, load, media_dir, batch_size, max_new_tokens, shards.folder)
        left = sum(len(piece.items) for piece in open_pieces)
        with tqdm(total=len(rows), initial=len(rows) - left, unit="row", desc="predict") as bar:
            for piece, answer in work_off(open_pieces, hire(make), retries, tell):
                status |= _take(piece, answer, shards, sees)
                bar.update(len(piece.items))

    _merge(out, shards, [row.id for row in rows if row.id not in done])
    counts = {"ok": 0, "unreadable": 0, "failed": 0, "skipped": len(rows) - len(ids - skipped)}
    for row_id in ids - skipped:
        counts[status[row_id]] += 1

    return counts


def shards_folder(out: Path) -> Path:
    """Where the shards of an output lie."""
    return out.with_name(f"{out.name}.shards")


def _cut(rows: list[AnnotationRow], batch_size: int) -> Iterator[Piece]:
    """Pieces of the very batches that one process cuts; a name changes with what is in it."""
    batches = list(map(tuple, media_batches(rows, batch_size, media_of)))
    for number, some in enumerate(chunks(batches, max(1, ceil(len(batches) / MOST_SHARDS)))):
        digest = hashlib.blake2b(digest_size=6)
        for batch in some:
            digest.update("\n".join(map(dump_row, batch)).encode(errors="surrogatepass") + b"\0")

        yield Piece(f"{number:06d}-{digest.hexdigest()}", some)


def _take(piece: Piece, answer: Answer, shards: Shards, sees: Callable[[dict[str, Any]], None]) -> dict[str, str]:
    """The status of a piece's rows; a row that no process survives fails."""
    if answer.value is None:
        (row,) = piece.items
        shards.write(piece.name, [dump_row(PredictionRow(id=row.id, status="failed", error=answer.problem))])
        return {row.id: "failed"}

    if not shards.arrives(piece.name, ARRIVES_WITHIN):
        raise Stopped(_missing(shards))

    sees(answer.value.sampling)
    return answer.value.status


def _merge(out: Path, shards: Shards, ids: list[str]) -> None:
    """Bring output and shards into one file in the rows' order; those of other rows come last."""
    lines = dict(finished(out))
    for file in shards.files():
        for row_id, line in finished(file):
            lines.setdefault(row_id, line)

    if any(row_id not in lines for row_id in ids):
        raise Stopped(_missing(shards))

    order = list(dict.fromkeys([*ids, *lines]))
    with replaced(out) as file:
        file.writelines(lines[row_id] for row_id in order)

    shards.remove()


def _missing(shards: Shards) -> str:
    return f"what the workers write does not arrive in {shards.folder}: all nodes must share its storage"


def _read(shards: Shards, name: str) -> list[PredictionRow]:
    return [parse_row(line, PredictionRow, where=name) for line in shards.read(name)]
