"""Annotation rows that a visitor gives along with a medium."""

from io import BytesIO
from pathlib import Path, PurePosixPath

from pydantic_core import from_json

from ..data.jsonl import filled_lines
from ..data.schema import AnnotationRow, RowError, parse_row
from .limits import MOST_ANNOTATION_BYTES, Refused
from .medium import Medium


TASKS = {True: ("stvg", "vtg"), False: ("rec",)}  # of a video, of an image


def read_truths(path: Path, medium: Medium) -> list[AnnotationRow]:
    """Rows of a JSON or JSONL file that are about this medium.

    A file about several media is told by the medium's name, as a data set's file is given as it is.

    Raises:
        Refused: The file is too large, holds no rows, or none about this medium.
    """
    if path.stat().st_size > MOST_ANNOTATION_BYTES:
        raise Refused(f"the annotation has more than {MOST_ANNOTATION_BYTES / 1e6:g} MB")

    try:
        rows = [parse_row(data, where=where) for where, data in _entries(path.read_bytes())]
    except RowError as err:
        raise Refused(f"annotation: {err}") from None

    rows = [row for row in rows if row.query and row.task in TASKS[medium.timeline is not None]]
    own = [row for row in rows if _media_name(row) == medium.name]
    if not own and len({_media_name(row) for row in rows}) == 1:
        own = rows  # the file was given another name

    if not own:
        raise Refused(f"no row of the annotation is about {medium.name}")

    for row in own:
        _check_fits(row, medium)

    return own


def _entries(text: bytes) -> list[tuple[str, object]]:
    """Where each row stands, and the row: of an array, a single object, or lines."""
    try:
        data = from_json(text)
    except ValueError:
        return [(f"line {line.number}", line.text) for line in filled_lines(BytesIO(text))]

    rows = data if isinstance(data, list) else [data]
    return [(f"row {number}", row) for number, row in enumerate(rows, start=1)]


def _media_name(row: AnnotationRow) -> str:
    medium = (row.videos or row.images)[0]
    return PurePosixPath(medium if isinstance(medium, str) else medium[0]).name


def _check_fits(row: AnnotationRow, medium: Medium) -> None:
    media = row.media
    if media is None:
        return

    if (media.width, media.height) != (medium.width, medium.height):
        size = f"{media.width} x {media.height} pixels, this has {medium.width} x {medium.height}"
        raise Refused(f"the annotation is about a picture of {size}")

    if medium.timeline and media.num_frames != medium.num_frames:
        raise Refused(f"the annotation is about a video of {media.num_frames} frames, this has {medium.num_frames}")
