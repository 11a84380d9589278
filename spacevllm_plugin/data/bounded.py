"""A folder of cached files that never holds more than so many bytes, shared by workers, ranks and runs.

One file per entry. Nothing is waited for on a hit; a miss that is stored takes a lock for the accounts and for eviction.
(The usual libraries keep a database that every hit writes to.)

What a run has used it will use again, one epoch later. So a full cache keeps that, stores nothing more, and goes on to
give hits for what it has: pushing out what was unused for the longest time would be pushing out what comes next, and no
entry would ever be hit. Only what other runs have left, and this one has not used, makes room.
"""

import hashlib
import logging
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO, ClassVar, Self

from filelock import FileLock


logger = logging.getLogger(__name__)
# Evict a little more than needed: each eviction lists the whole folder.
FILL_AFTER_EVICTION = 0.9
# A file that its writer did not get to name is a leftover after this many seconds.
STALE_SECONDS = 3600.0


@dataclass(frozen=True)
class BoundedFolder:
    """Entries by key, at most `limit` bytes of them. What an entry holds is for the classes above this one.

    Attributes:
        folder: Where the entries lie; made if it does not exist. Files of others in it are left alone.
        limit: Bytes of all entries together, never exceeded.
        since: When this run began, in nanoseconds of the clock; entries used since then are kept.
    """

    folder: str
    limit: int
    since: int = field(default_factory=time.time_ns)
    # The size that did not fit, once there was one.
    _refused: set[int] = field(default_factory=set, init=False, repr=False, compare=False)

    suffix: ClassVar[str]
    version: ClassVar[int]  # part of every key: to be raised whenever the same key would have to mean another content
    # `OPTION_dir` and `OPTION_gb` are what users set; its name in messages is the same without the underscore.
    option: ClassVar[str]
    others: ClassVar[str]  # what becomes of what does not fit

    @classmethod
    def create(cls, folder: str, gigabytes: float) -> Self:
        """A cache in `folder`.

        Raises:
            ValueError: The limit is not positive, or the folder cannot be written to.
        """
        if not gigabytes > 0:
            raise ValueError(f"`{cls.option}_gb: {gigabytes}` leaves no room for anything.")

        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=folder):
                pass
        except OSError as err:
            raise ValueError(f"`{cls.option}_dir: {folder}` cannot be used: {err.strerror}.") from None

        return cls(os.path.abspath(folder), round(gigabytes * 1e9))

    @property
    def indexes(self) -> str:
        """Folder beside the entries where the indexes of video files are kept, however full the cache is."""
        return os.path.join(self.folder, "index")

    def path(self, *key: object) -> Path:
        """Where the entry of a key lies; a key is what identifies its content, written out."""
        name = hashlib.sha256(repr((self.version, *key)).encode("utf-8", "surrogateescape")).hexdigest()
        return Path(self.folder, name[:2], f"{name}{self.suffix}")

    @staticmethod
    def mark_used(path: Path) -> None:
        """Count a use of an entry."""
        with suppress(OSError):
            _mark_used(path)

    def store(self, path: Path, size: int, write: Callable[[BinaryIO], Any]) -> None:
        """Store an entry; a cache that cannot be written to is a warning, never an error of the run.

        Args:
            path: Its place.
            size: Its bytes, roughly.
            write: Writes it to an open file.
        """
        try:
            self._store(path, size, write)
        except OSError as err:
            warnings.warn(f"{self._name} {self.folder}: {err}", RuntimeWarning, stacklevel=3)

    @property
    def _name(self) -> str:
        return self.option.replace("_", " ")

    def _store(self, path: Path, about: int, write: Callable[[BinaryIO], Any]) -> None:
        if about > self.limit // 2:  # it would push out nearly everything else
            return

        if any(about >= size for size in self._refused):  # what is kept stays for the whole run
            return

        path.parent.mkdir(exist_ok=True)
        temporary = None
        try:
            with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
                temporary = Path(file.name)
                write(file)

            size = temporary.stat().st_size
            with FileLock(os.path.join(self.folder, ".lock")):
                if path.exists():  # another process was as fast
                    return

                total = self._total()
                if total + size > self.limit:
                    total = self._evict(size)

                if total + size > self.limit:
                    self._refuse(about, total)
                    return

                # Before the entry: a process that is killed in between leaves a total that is too high, which the next
                # eviction puts right.
                self._accounts.write_text(str(total + size))
                _mark_used(temporary)
                temporary.replace(path)
                temporary = None
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)

    @property
    def _accounts(self) -> Path:
        return Path(self.folder, ".bytes")

    def _total(self) -> int:
        """Bytes of all entries, as far as they are accounted for."""
        try:
            return int(self._accounts.read_text())
        except (OSError, ValueError):
            return sum(size for _, size, _ in self._entries())

    def _refuse(self, size: int, total: int) -> None:
        """Remember that `size` bytes do not fit, write the accounts down, and say once in a run that the cache is full."""
        self._refused.clear()
        self._refused.add(size)
        self._accounts.write_text(str(total))
        said = Path(self.folder, ".full")
        if not (said.exists() and said.stat().st_mtime_ns >= self.since):
            said.touch()
            _mark_used(said)
            logger.warning(
                f"The {self._name} {self.folder} is full ({self.limit / 1e9:g} GB): it keeps what it has, {self.others}. "
                f"A larger `{self.option}_gb` would keep more."
            )

    def _entries(self) -> list[tuple[int, int, Path]]:
        """(last use, bytes, path) of every entry; leftovers of killed writers are removed."""
        entries = []
        for path in Path(self.folder).glob("[0-9a-f][0-9a-f]/*"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                if path.suffix == self.suffix:
                    entries.append((stat.st_mtime_ns, stat.st_size, path))
                elif path.suffix == ".tmp" and time.time() - stat.st_mtime > STALE_SECONDS:
                    path.unlink()

        return entries

    def _evict(self, needed: int) -> int:
        """Remove entries of other runs, the longest unused first, until `needed` bytes fit; returns the bytes left."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        goal = min(self.limit - needed, round(self.limit * FILL_AFTER_EVICTION))
        for used, size, path in entries:
            if total <= goal or used >= self.since:
                break

            path.unlink(missing_ok=True)
            total -= size

        return total


def _mark_used(path: Path) -> None:
    now = time.time_ns()  # the file system's own notion of now lags behind by some milliseconds
    os.utime(path, ns=(now, now))
