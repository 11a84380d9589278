"""From samples to files: rows with their phrasings, the summary, the entry in dataset_info.json."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from filelock import FileLock
from pydantic import ValidationError
from pydantic_core import from_json

from ..prompts import answer, instruction
from ..schema import VISUAL_TAGS, AnnotationRow, Message, dump_row
from .base import Report, Sample, Source, SourceError, first_error
from .media_name import is_media_name
from .raw_text import raw_text
from .streams import DiskTable


def convert(source: Source, out: Path) -> Report:
    """Convert a source.

    Writes the rows to `out`, `OUT.summary.json` and the entry in dataset_info.json beside it. All of it is moved into
    place when it is complete: a run that dies leaves what was there before.

    Raises:
        SourceError: The raw files cannot be used, or not one row could be kept; nothing is written then.
    """
    report = Report()
    # A broken index is better known before the work than after it.
    _read_info(out.parent / "dataset_info.json")
    with replacing(out) as file, DiskTable() as seen:
        for sample in source.samples(report):
            if not is_media_name(sample.medium):
                report.drop("bad_media_name", f"{sample.id}: {sample.medium}")
                continue

            sample.id = _told_apart(sample.id, seen)
            try:
                row = phrase(sample, source.media_folder)
                file.write(dump_row(row) + "\n")
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

    summary = {"source": source.name, "dataset": source.dataset, **report.summary()}
    with replacing(summary_path(out)) as file:
        file.write(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")

    add_dataset(out.parent / "dataset_info.json", source.dataset, out.name)
    return report


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


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Write a file under another name in the same folder and move it into place at the end, if nothing was raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # temporary files are made for their owner only
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def add_dataset(info_file: Path, name: str, file_name: str) -> None:
    """Add or replace one entry of a dataset_info.json; several processes may do so at once.

    Raises:
        SourceError: The file is there, but is not a JSON object.
    """
    with FileLock(info_file.with_name(f".{info_file.name}.lock")):
        info = _read_info(info_file)
        info[name] = {"file_name": file_name, "formatting": "spacevllm"}
        with replacing(info_file) as file:
            file.write(json.dumps(info, indent=2, ensure_ascii=False) + "\n")


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
