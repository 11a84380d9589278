"""From samples to files: rows with their phrasings, the summary, the entry in dataset_info.json."""

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from pydantic import ValidationError
from pydantic_core import from_json

from ..data.output import Outputs, destination, replaced
from ..data.prompts import answer, instruction
from ..data.schema import VISUAL_TAGS, AnnotationRow, Message, dump_row
from .base import Report, Sample, Source, SourceError, first_error
from .media_name import is_media_name
from .raw_text import raw_text
from .streams import DiskTable


def convert(source: Source, out: Path) -> Report:
    """Convert a source.

    Writes the rows to `out`, `OUT.summary.json` and the entry in dataset_info.json beside it. They are moved into place
    when all of them are complete: a run that fails or dies leaves what was there before. A stream gets the rows alone.

    Raises:
        SourceError: The raw files cannot be used, or not one row could be kept; nothing is written then.
        OutputError: One of the files cannot be written; none of them is then.
    """
    if destination(out) is None:
        with replaced(out) as file:
            return _write_rows(source, file)

    info_path = out.parent / "dataset_info.json"
    with ExitStack() as lock, Outputs() as outputs:
        rows, summary, info = map(outputs.open, (out, summary_path(out), info_path))
        # A broken index is better known before the work than after it.
        _read_info(info_path)
        report = _write_rows(source, rows)
        _write_json(summary, {"source": source.name, "dataset": source.dataset, **report.summary()})
        # Several processes may add entries at once: held until this one is in its place.
        lock.enter_context(FileLock(info_path.with_name(f".{info_path.name}.lock")))
        entry = {"file_name": out.name, "formatting": "spacevllm"}
        _write_json(info, {**_read_info(info_path), source.dataset: entry})

    return report


def _write_rows(source: Source, file: BinaryIO) -> Report:
    report = Report()
    with source, DiskTable() as seen:
        for sample in source.samples(report):
            if not is_media_name(sample.medium):
                report.drop("bad_media_name", f"{sample.id}: {sample.medium}")
                continue

            sample.id = _told_apart(sample.id, seen)
            try:
                row = phrase(sample, source.media_folder)
                file.write((dump_row(row) + "\n").encode())
            except ValidationError as err:
                report.drop("invalid", f"{sample.id}: {first_error(err)}")
            except UnicodeEncodeError:
                report.drop("malformed", f"{sample.id}: it holds halves of surrogate pairs, which are no characters")
            else:
                report.keep(sample.id, sample.repairs)

    if not report.kept:
        why = ", ".join(f"{reason} {count}" for reason, count in report.dropped.most_common())
        case = next(iter(report.examples.values()), "no item found; is this the file of this source?")
        raise SourceError(f"no row could be kept ({why + '; first case: ' if why else ''}{case})")

    return report


def _write_json(file: BinaryIO, value: dict) -> None:
    file.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def summary_path(out: Path) -> Path:
    """Where the summary of an output lies."""
    return out.with_name(out.name + ".summary.json")


def phrase(sample: Sample, folder: str) -> AnnotationRow:
    """The row of a sample whose medium lies in a folder: its id decides the wording of question and answer."""
    column = "images" if sample.task == "rec" else "videos"
    question = sample.question or instruction(sample.task, sample.query, sample.id, sample.interrogative)
    reply = sample.reply or answer(sample.task, sample.target.span_seconds, sample.id)
    return AnnotationRow(
        id=sample.id,
        task=sample.task,
        group=sample.group,
        query=sample.query,
        messages=[
            Message(role="user", content=VISUAL_TAGS[column] + question),
            Message(role="assistant", content=reply),
        ],
        media=sample.media,
        target=sample.target,
        tags=sample.tags,
        **{column: [f"{folder}/{sample.medium}"]},
    )


def _told_apart(row_id: str, seen: DiskTable) -> str:
    """The id, with `#2`, `#3`, … where the source repeats an item to the letter: official counts include repetitions."""
    digest = hashlib.blake2b(row_id.encode(errors="surrogatepass"), digest_size=8).digest()
    key = int.from_bytes(digest, signed=True)
    times = (seen.get(key) or 0) + 1
    seen[key] = times
    return row_id if times == 1 else f"{row_id}#{times}"


def _read_info(info_file: Path) -> dict:
    if not info_file.exists():
        return {}

    try:
        with raw_text(info_file) as file:
            info = from_json(file.read())
    except ValueError as err:
        raise SourceError(f"{info_file}: not valid JSON ({err})") from None

    if not isinstance(info, dict):
        raise SourceError(f"{info_file}: not an object of data sets")

    return info
