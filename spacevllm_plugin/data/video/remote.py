"""A remote file as a file that seeks: only the parts that are read are fetched, each once.

What a decoder reads is known beforehand where the container has a table of its frames (`mp4.py`): it is fetched ahead, in
few requests at once. Elsewhere, and for all that was not foreseen, a block at a time.
"""

import io
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import BinaryIO

import numpy as np

from ..storage import Range, Stat, is_ranged, read, read_ranges, stat
from .mp4 import FrameTable, read_table


BLOCK, LARGEST_BLOCK = 64 * 2**10, 2**20
# Fetched at once, and so at least held in memory for each file that is being read.
AHEAD = 16 * 2**20
# Of all files together, in a process: of those being read what they need, of the others their tables.
MEMORY = 256 * 2**20


class Parts:
    """The parts of one file, in one state of it, that this process holds; may be asked from several threads at once."""

    def __init__(self, path: str, known: Stat) -> None:
        self.path, self.size, self.nbytes = path, known.size, 0
        self._pieces: dict[int, bytes] = {}  # by where they start; they never overlap
        self._starts: list[int] = []  # the same, increasing
        self._passing: list[int] = []  # those that are let go when nobody reads any more, the oldest first
        self._probed: list[Range] = []
        self._planned: list[Range] = []
        self._readings = 0
        self._block, self._next = BLOCK, -1
        self._lock = RLock()
        self._table: FrameTable | None = None
        self._has_table = False

    def at(self, place: int, most: int = BLOCK) -> bytes | memoryview:
        """Bytes from a place on: `most` of them, or fewer where another part begins; none at the end of the file."""
        if place >= self.size or most <= 0:
            return b""

        with self._lock:
            start = self._holding(place)
            if start is None:
                self._fetch(place)
                start = self._holding(place)

            piece = self._pieces[start]
            return memoryview(piece)[place - start : place - start + most]

    @property
    def table(self) -> FrameTable | None:
        """Where the frames lie in the file, if it says so."""
        with self._lock:
            if not self._has_table:
                self._table = read_table(self.size, self._between)
                self._has_table = True
                self._probed = [] if self._table is None else self._table.probed()

            return self._table

    @contextmanager
    def reading(self, ranges: list[Range]) -> Iterator[None]:
        """While this lasts, what is read stays here.

        Args:
            ranges: What will be asked for, in this order.
        """
        with self._lock:
            self._readings += 1
            self._planned += ranges

        try:
            yield
        finally:
            with self._lock:
                self._readings -= 1
                if not self._readings:
                    self._planned.clear()
                    while self._passing:
                        self._drop(self._passing.pop())

    def _between(self, begin: int, end: int) -> bytes:
        """All bytes from one place to another; these stay: every opening of the file begins with them."""
        if self._holding(begin) is None:
            self._fetch_ranges([(begin, max(end, min(begin + BLOCK, self.size)))], stays=True)

        self._fetch_ranges([(begin, end)], stays=True)
        place, pieces = begin, []
        while place < end:
            pieces.append(self.at(place, end - place))
            place += len(pieces[-1])

        return b"".join(pieces)

    def _holding(self, place: int) -> int | None:
        """The start of the piece that a place is in."""
        number = bisect_right(self._starts, place) - 1
        if number < 0:
            return None

        start = self._starts[number]
        return start if place < start + len(self._pieces[start]) else None

    def _fetch(self, place: int) -> None:
        """Fetch the part that a place is in."""
        for plan, stays in ((self._planned, False), (self._probed, True)):
            number = next((number for number, (begin, end) in enumerate(plan) if begin <= place < end), None)
            if number is not None:
                self._fetch_ranges(self._ahead(plan[number:]), stays)
                return

        # What is read on and on is fetched in ever larger blocks.
        self._block = min(2 * self._block, LARGEST_BLOCK) if place == self._next else BLOCK
        self._next = min(place + self._block, self.size)
        self._fetch_ranges([(place, self._next)], stays=False)

    def _ahead(self, plan: list[Range]) -> list[Range]:
        """What is not here of the first ranges of a plan, so much as is fetched at once."""
        wanted, total = [], 0
        for part in plan:
            missing = self._missing(part)
            total += sum(end - begin for begin, end in missing)
            if wanted and total > AHEAD:
                break

            wanted += missing

        return wanted

    def _fetch_ranges(self, ranges: list[Range], stays: bool) -> None:
        missing = [rest for part in ranges for rest in self._missing(part)]
        for (begin, _), data in zip(missing, read_ranges(self.path, missing) if missing else []):
            self._pieces[begin] = data
            insort(self._starts, begin)
            self.nbytes += len(data)
            if not stays:
                self._passing.append(begin)

        # A film may be larger than the memory; what was read first is needed last, if at all.
        while self.nbytes > MEMORY and len(self._passing) > len(missing):
            self._drop(self._passing.pop(0))

    def _missing(self, part: Range) -> list[Range]:
        """A range without what is here of it."""
        begin, end = part
        missing = []
        for start in self._starts[max(0, bisect_right(self._starts, begin) - 1) :]:
            stop = start + len(self._pieces[start])
            if start >= end:
                break

            if stop > begin:
                if start > begin:
                    missing.append((begin, start))

                begin = stop

        return [*missing, (begin, end)] if begin < end else missing

    def _drop(self, start: int) -> None:
        self.nbytes -= len(self._pieces.pop(start))
        self._starts.remove(start)


class RemoteFile(io.RawIOBase):
    """A file that is read from a place on, as decoders want it."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.name = parts.path
        self._parts, self._place = parts, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where it stands."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; nothing is fetched."""
        self._place = max(
            0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._parts.size}[whence]
        )
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        """Read, as much as is here at once."""
        data = self._parts.at(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


class _Recent:
    """The files read last, up to `MEMORY`."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[str, Stat], Parts] = OrderedDict()
        self._lock = RLock()

    def get(self, path: str) -> Parts:
        """A file as it is now; raises as `storage.stat` does."""
        key = path, stat(path)
        with self._lock:
            parts = self._files.pop(key, None) or Parts(*key)
            self._files[key] = parts
            while len(self._files) > 1 and sum(parts.nbytes for parts in self._files.values()) > MEMORY:
                self._files.popitem(last=False)

            return parts

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._files.clear()


recent = _Recent()


@contextmanager
def open_remote(path: str) -> Iterator[RemoteFile]:
    """A video at an address, to be read from its beginning.

    Raises:
        FileNotFoundError: There is none.
        StorageError: The storage cannot be reached.
    """
    parts = recent.get(path)
    _ = parts.table  # FFmpeg would fetch it in pieces
    with parts.reading([]):
        yield RemoteFile(parts)


@contextmanager
def fetched_ahead(path: str, frames: list[int]) -> Iterator[None]:
    """While this lasts, what decoding these native frames (increasing) takes is fetched in as few requests as can be."""
    if not is_ranged(path):
        yield
        return

    parts = recent.get(path)
    with parts.reading(parts.table.ranges(frames) if parts.table is not None else []):
        yield


def shown_times(path: str) -> np.ndarray | None:
    """When each native frame of a remote file is shown, in ticks from any beginning; raises as `open_remote` does.

    None where the file has no table of its frames, or not all of those that are in it.
    """
    parts = recent.get(path)
    table = parts.table
    return None if table is None or table.ends.max() > parts.size else table.times[table.shown]


@contextmanager
def open_through(path: str) -> Iterator[BinaryIO]:
    """A remote file to be read once from beginning to end, whatever its size; raises as `open_remote` does."""
    parts = Parts(path, stat(path))
    with parts.reading([(begin, min(begin + AHEAD, parts.size)) for begin in range(0, parts.size, AHEAD)]):
        yield io.BufferedReader(RemoteFile(parts), BLOCK)


def open_image(path: str, whole: bool) -> BinaryIO:
    """A remote image: all of it at once, or as much of its beginning as is read. Raises as `open_remote` does."""
    return io.BytesIO(read(path)) if whole else io.BufferedReader(RemoteFile(Parts(path, stat(path))), BLOCK)
