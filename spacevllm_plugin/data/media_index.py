"""The media index: one file of what is known of videos, written by one process and read by all others and by later runs.

It is an SQLite database: a video is found among hundreds of thousands without reading about the others, a file that has
changed gets its new entry in place of the old one, and a writer that is killed leaves the database whole.
"""

import json
import os
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from .output import destination
from .storage import absolute
from .video import MediaError, Shelf, identity
from .video.index import Identity, Index
from .video.index_store import facts_of, from_facts, index_of, recent


# How SQLite tells the databases of one program from another's.
APPLICATION = 0x53564D49
TABLE = "CREATE TABLE IF NOT EXISTS videos (path BLOB PRIMARY KEY, facts TEXT NOT NULL, clock BLOB) WITHOUT ROWID"
LOCK_SECONDS = 60.0
# A transaction waits for the disk; what a killed process has found out since its last one is found out again.
ENTRIES_AT_ONCE, SECONDS_AT_MOST = 256, 5.0


class MediaIndexError(OSError):
    """A file that cannot be used as a media index; the message is one line."""


@dataclass(frozen=True)
class MediaIndex:
    """The shelf of all who read: what they find out themselves is not kept.

    It may be handed to other processes, forked or spawned; each opens the file for itself. A file that is not there yet, or
    cannot be read just now, costs time, not the run.

    Attributes:
        file: Absolute path.
    """

    file: str

    @classmethod
    def at(cls, path: str | os.PathLike) -> "MediaIndex":
        """The index in a file, which need not be there yet.

        Raises:
            MediaIndexError: It cannot be one.
        """
        try:
            file = destination(Path(path))
        except OSError as err:
            raise MediaIndexError(f"media index: {err}") from None

        if file is None:
            raise MediaIndexError(f"media index: {path} is no regular file, which it has to be")

        if file.exists() and file.stat().st_size and not _is_ours(file):
            raise MediaIndexError(f"media index: {path} is some other file: remove it, or name another one")

        return cls(str(file))

    def load(self, key: Identity) -> Index | None:
        """See `Shelf`."""
        try:
            database = _connection(self.file, os.stat(self.file).st_ino, os.getpid())
            entry = database.execute("SELECT facts, clock FROM videos WHERE path = ?", (_name(key),)).fetchone()
        except FileNotFoundError:
            return None
        except (OSError, sqlite3.Error) as err:
            warnings.warn(f"media index {self.file}: {err}", RuntimeWarning, stacklevel=2)
            return None

        if entry is None:
            return None

        facts, clock = entry
        return from_facts(key, json.loads(facts), None if clock is None else np.frombuffer(clock, np.float64))

    def save(self, key: Identity, index: Index) -> None:
        """See `Shelf`; left to a `MediaIndexWriter`."""


class MediaIndexWriter:
    """The shelf of a process that finds out: what is saved is in the file some seconds later, all of it when the block ends.

    A file that cannot be written any more, as on a full disk, costs a warning and a later run's time.

    Args:
        index: Where; the file is made, with its folder, if it is not there.

    Raises:
        MediaIndexError: It cannot be written.
    """

    def __init__(self, index: MediaIndex) -> None:
        self._index = index
        self._waiting: dict[bytes, tuple[str, bytes | None]] = {}
        self._written = time.monotonic()
        self._lock = Lock()
        os.makedirs(os.path.dirname(index.file), exist_ok=True)
        self._write()

    def __enter__(self) -> "MediaIndexWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._flush()

    def load(self, key: Identity) -> Index | None:
        """See `Shelf`."""
        return self._index.load(key)

    def save(self, key: Identity, index: Index) -> None:
        """See `Shelf`; any thread may."""
        timestamps = index.info.timeline.timestamps
        clock = None if timestamps is None else timestamps.astype(np.float64).tobytes()
        with self._lock:
            self._waiting[_name(key)] = json.dumps(facts_of(key, index)), clock
            late = time.monotonic() - self._written > SECONDS_AT_MOST
            if late or len(self._waiting) >= ENTRIES_AT_ONCE:
                self._flush()

    def _flush(self) -> None:
        try:
            self._write()
        except MediaIndexError as err:
            warnings.warn(str(err), RuntimeWarning, stacklevel=3)

        self._waiting.clear()
        self._written = time.monotonic()

    def _write(self) -> None:
        entries = [(path, *entry) for path, entry in self._waiting.items()]
        try:
            database = sqlite3.connect(self._index.file, LOCK_SECONDS, isolation_level=None)
            try:
                database.execute("BEGIN IMMEDIATE")
                database.execute(TABLE)
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.executemany("INSERT OR REPLACE INTO videos VALUES (?, ?, ?)", entries)
                database.execute("COMMIT")
            finally:
                database.close()
        except sqlite3.Error as err:
            raise MediaIndexError(f"media index: {self._index.file} cannot be written: {err}") from None


def survey(videos: Iterable[str], shelf: Shelf | None, workers: int) -> Iterator[None]:
    """Find out about video files that neither this process nor the shelf knows; each is opened once, none decoded.

    Processes forked afterwards find in memory what this one has there.

    Args:
        videos: Distinct paths.
        shelf: What is known, and where the rest is kept; None keeps it in memory alone.
        workers: Files that are looked at at once.

    Yields:
        None for each of them. What is wrong with one shows where it is used.
    """

    def look(path: str) -> None:
        try:
            key = identity(path)
            known = shelf.load(key) if shelf is not None else None
            if known is not None:
                recent.put(key, known)
            elif shelf is not None:
                shelf.save(key, index_of(path))
            else:
                index_of(path)
        except MediaError:
            pass

    # All threads have ended with it: forking a process that has some may hang.
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(look, videos)


@lru_cache(maxsize=4)
def _connection(file: str, inode: int, process: int) -> sqlite3.Connection:
    """A reader of a file as it is now; never one that a parent process has opened, which SQLite forbids."""
    return sqlite3.connect(f"{Path(file).as_uri()}?mode=ro", LOCK_SECONDS, uri=True, check_same_thread=False)


def _is_ours(file: Path) -> bool:
    try:
        ((application,),) = sqlite3.connect(f"{file.as_uri()}?mode=ro", LOCK_SECONDS, uri=True).execute(
            "PRAGMA application_id"
        )
    except sqlite3.Error:
        return False

    return application == APPLICATION


def _name(key: Identity) -> bytes:
    return os.fsencode(absolute(key[0]))
