"""Rows and their media in a few large files instead of millions of small ones: tar shards, as WebDataset has them.

A shard holds a sample for each distinct medium: `KEY.mp4`, as the file is, and `KEY.jsonl`, the rows about it, as they were.
Beside the shards a file of all rows in their order refers to the media by where they lie in the shards, so training,
`predict` and `check` read it like any other and nothing is ever unpacked.
"""

import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json
from tqdm import tqdm

from .jsonl import filled_lines
from .media import locate
from .members import Member, add_member, member_of
from .output import replaced
from .schema import RowError, parse_row
from .storage import inside, is_ranged, look, read, suffix
from .video import MediaError, VideoRef, frame_files, identity
from .video.remote import open_through


COLUMNS = ("videos", "images")
# A medium as rows name it, found: a file, or the files of a frame list or folder.
Medium = tuple[str, ...]


@dataclass
class Packed:
    """What was packed.

    Attributes:
        rows: Rows written.
        media: Distinct media.
        shards: The tar files, in order.
    """

    rows: int = 0
    media: int = 0
    shards: list[Path | str] = field(default_factory=list)


@dataclass
class _Contents:
    """What a file of rows refers to: for each medium, in order of appearance, where the rows lie that name it first."""

    rows: int = 0
    media: dict[Medium, list[int]] = field(default_factory=dict)


def pack(source: Path, folders: list[str], out: Path | str, shard_bytes: int) -> Packed:
    """Pack a file of rows and its media.

    Writes `NAME-000000.tar`, … and then `NAME.jsonl` into `out`, NAME being the source's; until all is written there is no
    file of rows. Memory grows with the distinct media.

    Args:
        source: Annotation rows (JSONL).
        folders: Where relative media paths start, see `locate`.
        out: Folder of the shards, made if it is not there, or an address, where each appears once it is whole.
        shard_bytes: A shard that has so many is followed by a new one.

    Raises:
        RowError: A row, or one of its media, cannot be used; nothing is written then.
        OutputError: Something cannot be written.
        StorageError: A storage cannot be reached.
    """
    contents = _survey(source, folders)
    packed = Packed(contents.rows, len(contents.media))
    places: dict[Medium, list[str]] = {}
    with open(source, "rb") as rows, tqdm(total=len(contents.media), desc="pack", unit=" media") as bar:
        waiting = iter(contents.media.items())
        medium = next(waiting, None)
        while medium is not None:
            name = f"{source.stem}-{len(packed.shards):06}.tar"
            shard = inside(out, name)
            with replaced(shard) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                while medium is not None and tar.offset < shard_bytes:
                    files, offsets = medium
                    places[files] = _add_sample(tar, name, f"{len(places):08}", files, _lines(rows, offsets))
                    bar.update()
                    medium = next(waiting, None)

            packed.shards.append(shard)

        with replaced(inside(out, f"{source.stem}.jsonl")) as file:
            rows.seek(0)
            for line in filled_lines(rows):
                file.write(_referring(from_json(line.text), folders, places))

    return packed


def _survey(source: Path, folders: list[str]) -> _Contents:
    """All rows are read, and all media looked for, before anything is written."""
    contents = _Contents()
    named: dict[Medium, str] = {}
    with open(source, "rb") as file:
        for line in filled_lines(file):
            where = f"{source.name}:{line.number}"
            row = parse_row(line.text, where=where)
            media = [_medium(path, folders) for column in COLUMNS for path in getattr(row, column) or ()]
            for medium in media:
                named.setdefault(medium, where)

            if media:
                contents.media.setdefault(media[0], []).append(line.offset)

            for medium in media[1:]:
                contents.media.setdefault(medium, [])

            contents.rows += 1

    if not contents.rows:
        raise RowError(f"{source} holds no rows")

    look(file for medium in named for file in medium)
    for medium, where in named.items():
        _require(medium, where)

    return contents


def _medium(path: str | list[str], folders: list[str]) -> Medium:
    if not isinstance(path, str):
        return tuple(locate(file, folders) for file in path)

    found = locate(path, folders)
    return tuple(frame_files(VideoRef(found)) or (found,))


def _require(medium: Medium, where: str) -> None:
    try:
        for file in medium:
            identity(file)
    except MediaError as err:
        raise RowError(f"{where}: {err}") from None


def _lines(rows: BinaryIO, offsets: list[int]) -> bytes:
    """The rows that begin at these bytes, as they stand in the file."""
    lines = []
    for offset in offsets:
        rows.seek(offset)
        lines.append(rows.readline().rstrip(b"\r\n") + b"\n")

    return b"".join(lines)


def _add_sample(tar: tarfile.TarFile, shard: str, key: str, medium: Medium, rows: bytes) -> list[str]:
    """Add a medium and the rows about it; returns the references to its files."""
    references = []
    for number, path in enumerate(medium):
        name = f"{key}{_suffix(path)}" if len(medium) == 1 else f"{key}.{number:06}{_suffix(path)}"
        with open_through(path) if is_ranged(path) else open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            references.append(str(add_member(tar, shard, name, file, size)))

    add_member(tar, shard, f"{key}.jsonl", io.BytesIO(rows), len(rows))
    return references


def _suffix(path: str) -> str:
    """What a medium's name ends in; of one that is in a tar file already, the name that it has there."""
    member = member_of(path)
    return suffix(path if member is None else _name_in_tar(member)).lower() or ".bin"


def _name_in_tar(member: Member) -> str:
    """What stands before a file in a tar file; empty where it is no name."""
    header = Member(member.shard, member.offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)
    try:
        return (
            tarfile.TarInfo.frombuf(read(str(header)), "utf-8", "surrogateescape").name if header.offset >= 0 else ""
        )
    except tarfile.HeaderError:
        return ""


def _referring(row: dict[str, Any], folders: list[str], places: dict[Medium, list[str]]) -> bytes:
    """A row whose media are references to the shards."""

    def reference(path: str | list[str]) -> str | list[str]:
        medium = _medium(path, folders)
        whole = isinstance(path, str) and medium == (locate(path, folders),)
        return places[medium][0] if whole else places[medium]

    for column in COLUMNS:
        if row.get(column):
            row[column] = [reference(path) for path in row[column]]

    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
