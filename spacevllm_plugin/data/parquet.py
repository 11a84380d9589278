"""Rows that lie in Parquet files with their media, as the datasets library writes them, as rows that `pack` takes.

A medium there is a file's bytes and name, inside compressed pages: nothing that a reference could lead to. So it is copied,
one row after the other, into one tar file for the time of packing.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .members import add_member
from .output import Outputs
from .schema import VISUAL_TAGS, RowError, parse_row
from .storage import local_copy


# Of a column, read at once: a whole column of a row group may be as large as its videos.
READ_AHEAD = 2**20
SHARD = "media.tar"


def unpacked(files: list[str], folder: Path, name: str) -> Path:
    """Write the rows of Parquet files as JSONL whose media are references into a tar file beside it.

    Columns are the fields of annotation rows; an entry of `videos` or `images` is a path as in any row, bytes, or the
    `{"bytes", "path"}` of a `Video` or `Image` feature. What several rows hold alike is kept once.

    Args:
        files: Paths or addresses.
        folder: Where to write; needs the room of all media.
        name: Of the file of rows, without a suffix.

    Raises:
        RowError: A file is no Parquet, or a row cannot be used.
        OutputError: The folder has no room.
        StorageError: A storage cannot be reached.
    """
    rows = folder / f"{name}.jsonl"
    with Outputs() as outputs:
        lines, shard = outputs.open(rows), outputs.open(folder / SHARD)
        media = _Media(tarfile.open(fileobj=shard, mode="w", format=tarfile.GNU_FORMAT))
        for file in files:
            with local_copy(file) as copy:
                for number, row in enumerate(_rows(copy, file), start=1):
                    where = f"{file}: row {number}"
                    for column in VISUAL_TAGS:
                        if isinstance(row.get(column), list):
                            row[column] = [media.path(medium, where) for medium in row[column]]

                    parse_row(row, where=where)
                    lines.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    return rows


class _Media:
    """What has been copied, by what it holds. Nobody reads the tar file to its end, so it needs none."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._places: dict[bytes, str] = {}

    def path(self, medium: Any, where: str) -> Any:
        """A medium as rows name it; frames one by one."""
        if isinstance(medium, list):
            return [self.path(frame, where) for frame in medium]

        data, name = (medium.get("bytes"), medium.get("path")) if isinstance(medium, dict) else (medium, None)
        data = name if data is None else data
        if not data:
            raise RowError(f"{where}: a medium has neither bytes nor a path")

        if isinstance(data, str):
            return data

        digest = hashlib.sha256(data).digest()
        if digest not in self._places:
            called = f"{len(self._places):08}{os.path.splitext(name or '')[1]}"
            self._places[digest] = str(add_member(self._tar, SHARD, called, io.BytesIO(data), len(data)))

        return self._places[digest]


def _rows(file: str, called: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file, buffer_size=READ_AHEAD, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(batch_size=1):
                yield _filled(batch.to_pylist()[0])
    except pa.ArrowException as err:
        raise RowError(f"{called}: no Parquet that can be read ({' '.join(str(err).split())})") from None


def _filled(value: Any) -> Any:
    """Without the fields that are None: all rows of a column have all fields that any has."""
    if isinstance(value, list):
        return [_filled(item) for item in value]

    return (
        {key: _filled(item) for key, item in value.items() if item is not None} if isinstance(value, dict) else value
    )
