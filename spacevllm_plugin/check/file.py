"""One pass over an annotation file: every row and every medium; good rows out, the rest counted."""

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO

from pydantic import ValidationError
from pydantic_core import from_json
from tqdm import tqdm

from ..data.facts import Facts, has_clock
from ..data.jsonl import filled_lines, json_problem
from ..data.media import locate, video_source
from ..data.media_index import MediaIndex, MediaIndexWriter
from ..data.members import containing_file
from ..data.rules import first_error
from ..data.schema import RowError, RowFields, parse_row
from ..data.storage import absolute, is_remote
from ..data.video import VideoRef
from .library import Library, Share
from .media import Fault, Job, Reading
from .repairs import repair
from .report import Problem, Report


ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class CheckOptions:
    """How to check.

    Attributes:
        folders: Where relative media paths start; the first folder that has a file gives it.
        memory: Where examined media are remembered, see `Library`.
        workers: Processes that examine media.
        reading: Also decode the frames that training would read.
        share: Examines media elsewhere, all of them at once, see `Library`.
        media_index: What is known of video files, read and added to.
    """

    folders: list[str]
    memory: Path
    workers: int = 1
    reading: Reading | None = None
    share: Share | None = None
    media_index: MediaIndex | None = None


@dataclass
class _Line:
    """One line of the file.

    Attributes:
        number: 1-based.
        text: As it stands in the file, without its end.
        row: Its row: an `AnnotationRow`, or where that is broken the bare fields; None where it has none.
        error: What makes `row` bare or None.
        row_id: If it has one.
        jobs: Its media, the one that `media` and `target` belong to first.
    """

    number: int
    text: bytes
    row: RowFields | None = None
    error: RowError | None = None
    row_id: str | None = None
    jobs: tuple[Job, ...] = ()


def check_file(path: Path, options: CheckOptions, fixed: IO[bytes] | None = None) -> Report:
    """Check every row and every media file.

    Rows are read in batches, so memory grows with the ids and the distinct media, not with the boxes.

    Args:
        path: Annotation rows (JSONL).
        options: How to check.
        fixed: Gets the good rows, unchanged, and those that can be repaired.
    """
    report = Report()
    with (
        MediaIndexWriter(options.media_index) if options.media_index else nullcontext() as shelf,
        Library(options.memory, options.workers, options.share, shelf) as library,
        open(path, "rb") as file,
    ):
        if options.share is not None:
            library.examine_all(job for line in _lines(file, options) for job in line.jobs)
            file.seek(0)

        with tqdm(total=os.path.getsize(path), unit="B", unit_scale=True, desc="check") as bar:
            _judge_all(file, options, library, report, fixed, bar)

        report.media = dict(library.counts)

    return report


def _judge_all(
    file: IO[bytes], options: CheckOptions, library: Library, report: Report, fixed: IO[bytes] | None, bar: tqdm
) -> None:
    seen: dict[str, int] = {}

    def show() -> None:
        bar.set_postfix(media=library.counts["files"], problems=report.rows - report.good)

    stream = _lines(file, options)
    while lines := list(islice(stream, ROWS_AT_ONCE)):
        library.examine_all((job for line in lines for job in line.jobs), show)
        for line in lines:
            _judge(line, seen, library, report, fixed)
            bar.update(len(line.text) + 1)

        show()


def _lines(file: IO[bytes], options: CheckOptions) -> Iterator[_Line]:
    for line in filled_lines(file):
        yield _read_line(line.number, line.text, options)


def _read_line(number: int, text: bytes, options: CheckOptions) -> _Line:
    line = _Line(number, text)
    try:
        data = from_json(text)  # the reader that training uses: others take more, or less
    except ValueError as err:
        line.error = RowError(json_problem(text, str(err)), "json")
        return line

    if isinstance(data, dict) and isinstance(data.get("id"), str):
        line.row_id = data["id"]

    try:
        line.row = parse_row(data)
    except RowError as err:
        line.error = err
        if err.kind == "media-secret":  # not even looked at
            return line

        try:
            line.row = RowFields.model_validate(data)
        except ValidationError:
            return line

    line.jobs = tuple(_jobs(line.row, options))
    return line


def _jobs(row: RowFields, options: CheckOptions) -> Iterator[Job]:
    """A row's media by absolute paths, the one that `media` and `target` belong to first."""
    images = [Job(_absolute(image, options.folders), False, options.reading) for image in row.images or []]
    videos = [_video_job(row, i, options) for i in range(len(row.videos or []))]
    return iter(images + videos if row.task == "rec" else videos + images)


def _video_job(row: RowFields, index: int, options: CheckOptions) -> Job:
    ref = VideoRef.parse(video_source(row, index, options.folders))
    if options.reading is None:
        ref = replace(ref, clip=None, fps=None)

    if ref.path is None:
        ref = replace(ref, frames=tuple(_absolute(frame, options.folders) for frame in ref.frames))
    else:
        ref = replace(ref, path=_absolute(ref.path, options.folders))

    span = row.target.span_frames if row.target else None
    clip = row.media.clip if row.media else None
    moments = frozenset((span or ()) + (clip or ())) if index == 0 else frozenset()
    return Job(ref.encode(), True, options.reading, moments, options.media_index is not None and has_clock(ref))


def _absolute(path: str, folders: list[str]) -> str:
    """Where a medium lies, or where it should."""
    found = locate(path, folders)
    return absolute(
        found if is_remote(found) or os.path.exists(containing_file(found)) else os.path.join(folders[0], path)
    )


def _judge(line: _Line, seen: dict[str, int], library: Library, report: Report, out: IO[bytes] | None) -> None:
    problems: list[Problem] = []
    row = line.row
    if line.row_id is not None:
        first = seen.setdefault(line.row_id, line.number)
        if first != line.number:
            problems.append(Problem("duplicate-id", f"line {first} has the same id"))

    if row is None:
        problems.append(Problem(line.error.kind, line.error.reason))
    else:
        found = [library[job] for job in line.jobs]
        problems += [Problem(fault.kind, fault.message) for fault in found if isinstance(fault, Fault)]
        facts = found[0] if found and isinstance(found[0], Facts) else None
        row, errors = _mend(row, facts, line.error)
        problems += errors

    report.add(line.number, line.row_id, problems)
    if out is None or not all(problem.repaired for problem in problems):
        return

    if problems:
        out.write((json.dumps(row.model_dump(exclude_none=True), ensure_ascii=False) + "\n").encode())
    else:
        out.write(line.text + b"\n")


def _mend(row: RowFields, facts: Facts | None, error: RowError | None) -> tuple[RowFields, list[Problem]]:
    """Name a row's errors and repair it, until it is good or has one that cannot be repaired."""
    problems: dict[str, Problem] = {}
    error = error or first_error(row, facts)
    while error is not None:
        # An error that comes back is one that its repair does not mend.
        mended = None if error.kind in problems else repair(row, error.kind, facts)
        problems[error.kind] = Problem(error.kind, error.reason, mended is not None)
        if mended is None:
            break

        row = mended
        error = first_error(row, facts)

    return row, list(problems.values())
