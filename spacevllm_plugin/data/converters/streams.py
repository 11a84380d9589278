"""Raw files item by item, with a progress bar: memory does not grow with the file."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import ijson
from tqdm import tqdm

from .base import SourceError


def json_items(path: Path, prefix: str = "item") -> Iterator[Any]:
    """Items of a JSON array: the whole file's, or the one under a key (`images.item`)."""
    with _bar(path) as bar, _open(path) as file, _one_line(path):
        yield from ijson.items(tqdm_reader(file, bar), prefix, use_float=True)


def json_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of a file that holds one JSON object."""
    with _bar(path) as bar, _open(path) as file, _one_line(path):
        yield from ijson.kvitems(tqdm_reader(file, bar), "", use_float=True)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, and their numbers from 1."""
    with _bar(path) as bar, _open(path) as file:
        for number, line in enumerate(file, start=1):
            bar.update(len(line))
            if line.strip():
                yield number, line.strip()


def tqdm_reader(file: BinaryIO, bar: tqdm) -> "_Reader":
    """A file whose reads move a bar."""
    return _Reader(file, bar)


class _Reader:
    def __init__(self, file: BinaryIO, bar: tqdm) -> None:
        self.file, self.bar = file, bar

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.bar.update(len(data))
        return data


def _bar(path: Path) -> tqdm:
    size = path.stat().st_size if path.is_file() else None
    return tqdm(desc=path.name, total=size, unit="B", unit_scale=True, mininterval=0.5)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as err:
        raise SourceError(f"{path}: {err.strerror or err}") from None


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except ijson.JSONError as err:
        raise SourceError(f"{path}: not valid JSON ({str(err).strip().splitlines()[0]})") from None


class DiskTable:
    """Key -> JSON value in a temporary file that disappears with the object: for joins larger than memory should hold."""

    def __init__(self) -> None:
        # An empty name is SQLite's own temporary database: on disk beyond a small cache, deleted when closed.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4096;")
        self._db.execute("CREATE TABLE t (key INTEGER PRIMARY KEY, value TEXT)")
        self._db.execute("BEGIN")

    def __enter__(self) -> "DiskTable":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def get(self, key: int) -> Any:
        """The value, or None."""
        found = self._db.execute("SELECT value FROM t WHERE key = ?", (key,)).fetchone()
        return json.loads(found[0]) if found else None

    def __setitem__(self, key: int, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (key, json.dumps(value)))
