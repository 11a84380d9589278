"""Running a stage over a JSONL file so that it can be killed at any moment and started again.

Beside OUT lie, while it runs, `OUT.partial`: finished rows in the order they finished; and when it is done
`OUT.rejects.jsonl`: every row that is not in OUT, with its reason; `OUT.counts.json`: how many went where. OUT and the
rejects are in input order and appear only when all rows are done, so a run that was interrupted ends with the same bytes
as one that was not.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from pydantic import BaseModel
from tqdm import tqdm

from ..data.jsonl import append_lines, filled_lines, recover
from ..data.output import Outputs, appended, destination, replaced, same_file
from ..data.schema import RowError, dump_row, parse_row
from ..data.shortened import shortened
from .rows import Kept, Rejected


# Rows that finish within this time share one write to the disk: the fast stages do thousands a second.
FLUSH_SECONDS = 0.3
FLUSH_CHARACTERS = 1 << 20
COMMON_REASONS = {
    "bad_row": "the line is not a row of the stage before",
    "duplicate_id": "a row above has the same id",
}
# Of shared stages only, and counted only where it occurs: theirs are the bytes of one process otherwise.
GAVE_UP = "gave_up"
RARE_REASONS = {GAVE_UP: "every process that tried it died or failed"}


class StageError(Exception):
    """Why a stage stopped or did not start; the message is one line. What was finished is kept."""


class Stage(Protocol):
    """One step of the builder.

    Attributes:
        name: The subcommand.
        reads: What an input row is.
        options: All that the result depends on besides the input; a run is only resumed with the same.
        reasons: Every reason for which it rejects rows -> what it means.
    """

    name: str
    reads: type[BaseModel]
    options: dict[str, Any]
    reasons: dict[str, str]

    def process(self, rows: Iterator[Any]) -> Iterator[tuple[str, Kept | Rejected]]:
        """One answer, with the row's id, for each row; in any order."""
        ...


def run_stage(stage: Stage, source: Path, out: Path, overwrite: bool = False) -> dict[str, Any]:
    """Run a stage, or go on where a run before stopped.

    Args:
        stage: The step.
        source: JSONL file of `stage.reads` rows.
        out: JSONL file for the rows kept; see the module for what lies beside it.
        overwrite: Start anew whatever is there.

    Returns:
        What `OUT.counts.json` holds: `stage`, `options`, `source_sha256`, `in`, `out`, `rejected` by reason, `totals`.

    Raises:
        StageError: The stage stopped, another run writes the same file, or what is there was made otherwise.
        FileNotFoundError: There is no input.
    """
    partial, rejects, counts = (beside(out, suffix) for suffix in ("partial", "rejects.jsonl", "counts.json"))
    for path in (out, partial, rejects, counts):
        if same_file(path, source):
            raise StageError(f"{source} would be overwritten: choose another --out")

        if destination(path) is None:
            raise StageError(f"{path} is no regular file, which it has to be")

    sha256, num_lines = _survey(source)
    if overwrite:
        for path in (out, partial, rejects, counts):
            destination(path).unlink(missing_ok=True)  # not the path: a link stays

    made_by = {"stage": stage.name, "options": stage.options}
    if out.exists() and not partial.exists():
        return _finished(out, counts, {**made_by, "source_sha256": sha256})

    with _Journal(partial, made_by) as journal:
        try:
            with tqdm(total=num_lines, unit="row", desc=stage.name) as bar:
                for row_id, result in stage.process(_pending(stage, source, journal, bar)):
                    journal.add(row_id, result)
                    bar.update()
        finally:
            journal.flush()

        report = _assemble(stage, source, out, rejects, journal)
        report = {**made_by, "source_sha256": sha256, **report}
        with replaced(counts) as file:
            file.write((json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())

        # Last: a run counts as finished once its journal is gone.
        partial.unlink()

    return report


def beside(out: Path, suffix: str) -> Path:
    """`OUT.suffix`."""
    return out.with_name(f"{out.name}.{suffix}")


def _survey(source: Path) -> tuple[str, int]:
    """A file's SHA-256 and its number of newlines."""
    digest, newlines = hashlib.sha256(), 0
    with open(source, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            newlines += chunk.count(b"\n")

    return digest.hexdigest(), newlines


def _finished(out: Path, counts: Path, made_by: dict[str, Any]) -> dict[str, Any]:
    """The counts of a run that is over, if it was this one."""
    report = json.loads(counts.read_bytes()) if counts.exists() else {}
    if any(report.get(key) != value for key, value in made_by.items()):
        raise StageError(f"{out} is there already, from other input or other options: --overwrite starts anew")

    return report


class _Journal:
    """`OUT.partial`: a first line that says who writes, then per finished row `HEAD<tab>ROW`, both JSON.

    In memory it holds one entry a row (key, offset, id), no contents.

    Attributes:
        done: Key of a finished row's input line -> (offset of its line here, id).
    """

    def __init__(self, path: Path, made_by: dict[str, Any]) -> None:
        self.path = path
        self.made_by = json.loads(json.dumps(made_by))
        self.done: dict[str, tuple[int, str | None]] = {}
        self.keys: dict[str, str] = {}  # id -> key of rows on their way through the stage
        self._lines: list[str] = []
        self._size = 0  # characters in them
        self._flushed = time.monotonic()
        # Beside it: not every system can lock the very file that it writes.
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def __enter__(self) -> "_Journal":
        self._file = appended(self.path)  # also makes the folder
        try:
            self._lock.acquire(timeout=0)
            self._recover()
        except Timeout:
            self._file.close()
            raise StageError(f"{self.path}: another run is writing it") from None
        except BaseException:
            self.__exit__()
            raise

        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._file.close()
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _recover(self) -> None:
        for offset, line in recover(self.path):
            head = json.loads(line.partition(b"\t")[0])
            if offset == 0:
                self._check(head)
            else:
                self.done[head["key"]] = (offset, head["id"])

        self._offset = self.path.stat().st_size
        if self._offset == 0:
            self._write(json.dumps(self.made_by, ensure_ascii=False))
            self.flush()

    def _check(self, there: dict[str, Any]) -> None:
        if there != self.made_by:
            old, new = there.get("options", {}), self.made_by["options"]
            differ = [f"{key} {old.get(key)!r}, now {new.get(key)!r}" for key in new if old.get(key) != new[key]]
            what = "; ".join(differ) or f"stage {there.get('stage')!r}"
            raise StageError(f"{self.path} was begun with {what}: resume with the same, or --overwrite starts anew")

    def add(self, row_id: str, result: Kept | Rejected) -> None:
        """Note a finished row that is in `keys`."""
        self.note(self.keys.pop(row_id), row_id, result)

    def note(self, key: str, row_id: str | None, result: Kept | Rejected) -> None:
        """Note a finished row; on the disk with the next `flush`, which is soon."""
        head = {"key": key, "id": row_id, "counts": result.counts}
        body = ""
        if isinstance(result, Rejected):
            head |= {"reason": result.reason, "detail": result.detail}
        else:
            body = dump_row(result.row)

        self.done[key] = (self._offset, row_id)
        self._write(json.dumps(head, ensure_ascii=False) + "\t" + body)
        if time.monotonic() - self._flushed > FLUSH_SECONDS or self._size > FLUSH_CHARACTERS:
            self.flush()

    def _write(self, line: str) -> None:
        self._lines.append(line)
        self._size += len(line)
        self._offset += len(line.encode()) + 1

    def flush(self) -> None:
        """Put what is finished on the disk."""
        append_lines(self._file, self._lines)
        self._lines.clear()
        self._size = 0
        self._flushed = time.monotonic()


def _lines(source: Path) -> Iterator[tuple[int, str | None, bytes]]:
    """Lines that are not blank: number, a key made of the content (None if the same line was there before), text."""
    seen = set()
    with open(source, "rb") as file:
        for number, _, line in filled_lines(file):
            line = line.strip()
            key = hashlib.blake2b(line, digest_size=16).hexdigest()
            yield number, (None if key in seen else key), line
            seen.add(key)


def _pending(stage: Stage, source: Path, journal: _Journal, bar: tqdm) -> Iterator[BaseModel]:
    """The rows that are still to be done, in input order; lines that are no usable row are noted at once.

    All but those that are handed out count as progress here.
    """
    ids = set()
    for number, key, line in _lines(source):
        if key is None:
            bar.update()
            continue

        if key in journal.done:
            ids.add(journal.done[key][1])
            bar.initial += 1  # no work of this session: it says nothing about the time that is left
            bar.update()
            continue

        try:
            row = parse_row(line, stage.reads, where=f"{source.name}:{number}")
        except RowError as err:
            journal.note(key, None, Rejected("bad_row", str(err)))
            bar.update()
            continue

        if row.id in ids:
            journal.note(key, row.id, Rejected("duplicate_id", f"{source.name}:{number} (id {shortened(row.id)})"))
            bar.update()
            continue

        ids.add(row.id)
        journal.keys[row.id] = key
        yield row


def _assemble(stage: Stage, source: Path, out: Path, rejects: Path, journal: _Journal) -> dict[str, Any]:
    """Write OUT and the rejects in input order from the journal."""
    rejected = dict.fromkeys({**COMMON_REASONS, **stage.reasons}, 0)
    totals: Counter[str] = Counter()
    read = kept = 0
    with open(journal.path, "rb") as finished, Outputs() as outputs:
        lost, good = outputs.open(rejects), outputs.open(out)
        for _, key, line in _lines(source):
            read += 1
            if key is None:
                head, body = {"reason": "duplicate_id", "detail": "the same line is there above", "counts": {}}, b""
            else:
                finished.seek(journal.done[key][0])
                head, _, body = finished.readline().partition(b"\t")
                head = json.loads(head)

            totals.update(head["counts"])
            if "reason" not in head:
                kept += 1
                good.write(body)
            else:
                rejected[head["reason"]] = rejected.get(head["reason"], 0) + 1
                lost.write(_reject_line(stage.name, head, line))

    assert read == kept + sum(rejected.values()), "a row was lost"
    return {"in": read, "out": kept, "rejected": rejected, "totals": dict(sorted(totals.items()))}


def _reject_line(stage: str, head: dict[str, Any], line: bytes) -> bytes:
    """One line of the rejects: who rejected what and why, and the input row, or its text if that is no JSON."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = line.decode(errors="replace")

    reject = {"id": head.get("id"), "stage": stage, "reason": head["reason"], "detail": head["detail"], "row": row}
    # Half of a surrogate pair has no UTF-8, but an escape in JSON, which it came in.
    return (json.dumps(reject, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
