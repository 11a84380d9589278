"""A bounded cache of sampled frames on disk, shared by dataloader workers, ranks and runs.

One file per entry, a plain `.npy`, so that a hit costs little more than reading it. Nothing is waited for on a hit; a
miss that is stored takes a lock for the accounts and for eviction. (The usual libraries keep a database that every hit
writes to.)

What a run has used it will use again, one epoch later. So a full cache keeps that, stores nothing more, and goes on to
give hits for what it has: pushing out what was unused for the longest time would be pushing out what comes next, and no
entry would ever be hit. Only what other runs have left, and this one has not used, makes room.
"""

import hashlib
import logging
import os
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from filelock import FileLock

from .video import IndexFolder


# Part of every key: to be raised whenever the same key would have to mean other pixels.
VERSION = 1
logger = logging.getLogger(__name__)
# Evict a little more than needed: each eviction lists the whole folder.
FILL_AFTER_EVICTION = 0.9
# A file that its writer did not get to name is a leftover after this many seconds.
STALE_SECONDS = 3600.0


@dataclass(frozen=True)
class FrameCache:
    """Frames by key, at most `limit` bytes of them.

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

    @classmethod
    def create(cls, folder: str, gigabytes: float) -> "FrameCache":
        """A cache in `folder`.

        Raises:
            ValueError: The limit is not positive, or the folder cannot be written to.
        """
        if not gigabytes > 0:
            raise ValueError(f"`frame_cache_gb: {gigabytes}` leaves no room for a frame.")

        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=folder):
                pass
        except OSError as err:
            raise ValueError(f"`frame_cache_dir: {folder}` cannot be used: {err.strerror}.") from None

        return cls(os.path.abspath(folder), round(gigabytes * 1e9))

    @property
    def indexes(self) -> IndexFolder:
        """Beside the entries: where the indexes of video files are kept, however full the cache is."""
        return IndexFolder(os.path.join(self.folder, "index"))

    def path(self, *key: object) -> Path:
        """Where the entry of a key lies; a key is what identifies the pixels, written out."""
        name = hashlib.sha256(repr((VERSION, *key)).encode("utf-8", "surrogateescape")).hexdigest()
        return Path(self.folder, name[:2], f"{name}.npy")

    def get(self, path: Path) -> np.ndarray | None:
        """The frames of an entry, (n, 3, height, width) uint8, or None; counts as a use."""
        try:
            frames = np.load(path, allow_pickle=False)
        except FileNotFoundError:  # never stored, or evicted, perhaps just now
            return None
        except (OSError, ValueError, EOFError):  # cut off by a full disk or a crash of the machine
            with suppress(OSError):
                path.unlink()

            return None

        with suppress(OSError):
            _mark_used(path)

        return frames

    def put(self, path: Path, frames: np.ndarray) -> None:
        """Store frames; a cache that cannot be written to is a warning, never an error of the run."""
        try:
            self._put(path, frames)
        except OSError as err:
            warnings.warn(f"frame cache {self.folder}: {err}", RuntimeWarning, stacklevel=2)

    def _put(self, path: Path, frames: np.ndarray) -> None:
        if frames.nbytes > self.limit // 2:  # it would push out nearly everything else
            return

        if any(frames.nbytes >= size for size in self._refused):  # what is kept stays for the whole run
            return

        path.parent.mkdir(exist_ok=True)
        temporary = None
        try:
            with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
                temporary = Path(file.name)
                np.save(file, frames)

            size = temporary.stat().st_size
            with FileLock(os.path.join(self.folder, ".lock")):
                if path.exists():  # another process was as fast
                    return

                total = self._total()
                if total + size > self.limit:
                    total = self._evict(size)

                if total + size > self.limit:
                    self._refuse(frames.nbytes, total)
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
                f"The frame cache {self.folder} is full ({self.limit / 1e9:g} GB): it keeps what it has, other videos are "
                "decoded each time. A larger `frame_cache_gb` would keep more."
            )

    def _entries(self) -> list[tuple[int, int, Path]]:
        """(last use, bytes, path) of every entry; leftovers of killed writers are removed."""
        entries = []
        for path in Path(self.folder).glob("[0-9a-f][0-9a-f]/*"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                if path.suffix == ".npy":
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
