"""Raw files item by item, with a progress bar: memory does not grow with the file."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ijson
from tqdm import tqdm

from .base import SourceError
from .raw_text import JSONBytes, raw_text


def json_items(path: Path, prefix: str = "item") -> Iterator[Any]:
    """Items of a JSON array: the whole file's, or the one under a key (`images.item`)."""
    with _json(path) as file:
        yield from ijson.items(file, prefix, use_float=True)


def json_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of a file that holds one JSON object."""
    with _json(path) as file:
        yield from ijson.kvitems(file, "", use_float=True)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, and their numbers from 1; a line may end as on any system."""
    with raw_text(path) as file, _bar(path) as bar:
        number = 0
        for part in file:
            bar.update(len(part))
            for line in part.splitlines():
                number += 1
                if line.strip():
                    yield number, line.strip()


@contextmanager
def _json(path: Path) -> Iterator[JSONBytes]:
    with raw_text(path) as file, _bar(path) as bar:
        try:
            yield JSONBytes(path, file, bar)
        except ijson.JSONError as err:
            # Bytes where the parser has cut its excerpt through a character.
            reason = err.args[0].decode(errors="replace") if isinstance(err.args[0], bytes) else str(err)
            raise SourceError(f"{path}: not valid JSON ({reason.strip().splitlines()[0]})") from None


def _bar(path: Path) -> tqdm:
    size = path.stat().st_size if path.is_file() else None
    return tqdm(desc=path.name, total=size, unit="B", unit_scale=True, mininterval=0.5)


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
