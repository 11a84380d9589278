"""Where the frames of an MP4 or MOV file lie in it, from the file's own table: what FFmpeg knows, and PyAV does not say.

Only good for guessing well what will be read: whoever reads other bytes than these gets them all the same.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..limits import MOST_FRAMES


HEADER = 16  # bytes of a box's own: a size, a type, and for some a longer size
# What a file of this kind starts with.
FIRST = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")
# The reading of a file's tables must not take its memory.
LARGEST_TABLES = 256 * 2**20
# What lies between frames is read as well where it is no more than this: mostly sound, which FFmpeg reads anyway.
GAP = 64 * 2**10


@dataclass(frozen=True)
class FrameTable:
    """The frames of the video in a file, in decoding order.

    Attributes:
        begins: Byte at which each starts.
        ends: Byte behind each.
        keys: Places of the keyframes.
        shown: Places in the order in which they are shown, those that are not shown left out: by native frame number.
        times: When each is shown, in ticks of the stream's time base.
    """

    begins: np.ndarray
    ends: np.ndarray
    keys: np.ndarray
    shown: np.ndarray
    times: np.ndarray

    def probed(self) -> list[tuple[int, int]]:
        """Byte ranges of the frames that indexing looks at: the first, and the last to be shown."""
        return [(int(self.begins[place]), int(self.ends[place])) for place in (self.keys[0], self.shown[-1])]

    def ranges(self, frames: list[int]) -> list[tuple[int, int]]:
        """Byte ranges of all frames that must be decoded for some native ones, increasing."""
        places = self.shown[[frame for frame in frames if 0 <= frame < len(self.shown)]]
        if not len(places):
            return []

        # A frame that is shown before its keyframe refers to the one before that.
        before = np.searchsorted(self.times[self.keys], self.times[places], side="right") - 1
        starts = self.keys[before.clip(0)]
        read = np.zeros(len(self.begins), bool)
        for start in np.unique(starts):
            # One more: it is looked at to see that it is not wanted.
            read[start : places[starts == start].max(initial=start) + 2] = True

        order = np.argsort(self.begins[read], kind="stable")
        return _merged(self.begins[read][order], self.ends[read][order])


def _merged(begins: np.ndarray, ends: np.ndarray) -> list[tuple[int, int]]:
    last = np.maximum.accumulate(ends)
    first = np.flatnonzero(np.concatenate(([True], begins[1:] > last[:-1] + GAP)))
    return list(zip(begins[first].tolist(), np.maximum.reduceat(ends, first).tolist()))


def read_table(size: int, read: Callable[[int, int], bytes]) -> FrameTable | None:
    """The table of a file; None where it has none: another container, or one in fragments.

    Args:
        size: Bytes of the file.
        read: Gives the bytes from one place on to another.
    """
    try:
        found = _find_tables(size, read)
        if found is None:
            return None

        begin, end = found
        # With the beginning of the next box, at which FFmpeg looks, too.
        moov = memoryview(read(begin, min(end + HEADER, size)))[: end - begin]
        tracks = [_track(dict(_boxes(body))) for name, body in _boxes(moov[_header(moov)[1] :]) if name == b"trak"]
        return next((_table(track) for track in tracks if track is not None), None)
    except (struct.error, IndexError, KeyError, ValueError):  # a damaged file: FFmpeg will say so
        return None


def _find_tables(size: int, read: Callable[[int, int], bytes]) -> tuple[int, int] | None:
    place = 0
    while place + 8 <= size:
        head = read(place, min(place + HEADER, size))
        length, _, name = _header(head)
        if (place == 0 and name not in FIRST) or length < 8:
            return None

        if name == b"moov":
            return (place, place + length) if length <= LARGEST_TABLES and place + length <= size else None

        place += length

    return None


def _header(data: Any) -> tuple[int, int, bytes]:
    """Bytes of a box in all, of its own header, and its type."""
    length, name = struct.unpack_from(">I4s", data)
    if length != 1:
        return length, 8, name

    return struct.unpack_from(">Q", data, 8)[0], 16, name


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    place = 0
    while place + 8 <= len(data):
        length, header, name = _header(data[place:])
        length = length or len(data) - place
        if length < header:
            return

        yield name, data[place + header : place + length]
        place += length


def _track(boxes: dict[bytes, memoryview]) -> dict[bytes, memoryview] | None:
    """The tables of a track, if it is a video."""
    media = dict(_boxes(boxes[b"mdia"]))
    if bytes(media[b"hdlr"][8:12]) != b"vide":
        return None

    tables = dict(_boxes(dict(_boxes(media[b"minf"]))[b"stbl"]))
    if b"edts" in boxes:
        tables |= dict(_boxes(boxes[b"edts"]))

    return tables


def _numbers(box: memoryview, kind: str, columns: int = 1, skip: int = 4) -> np.ndarray:
    """A table's lines: version and flags, how many there are, then numbers."""
    (count,) = struct.unpack_from(">I", box, skip)
    values = np.frombuffer(box, kind, count * columns, skip + 4).astype(np.int64)
    return values.reshape(count, columns) if columns > 1 else values


def _table(tables: dict[bytes, memoryview]) -> FrameTable | None:
    sizes = tables[b"stsz"]
    same, count = struct.unpack_from(">II", sizes, 4)
    if not 0 < count <= MOST_FRAMES:
        return None

    lengths = np.full(count, same) if same else _numbers(sizes, ">u4", skip=8)
    begins = _places(tables, lengths)
    keys = _numbers(tables[b"stss"], ">u4") - 1 if b"stss" in tables else np.arange(count)
    times = _expanded(_numbers(tables[b"stts"], ">u4", 2), count).cumsum()
    times = np.concatenate(([0], times[:-1]))
    if b"ctts" in tables:
        times = times + _expanded(_numbers(tables[b"ctts"], ">i4", 2), count)

    shown = np.argsort(times, kind="stable")
    shown = shown[times[shown] >= max(_shown_from(tables), times[keys[0]])]
    return FrameTable(begins, begins + lengths, keys, shown, times) if len(shown) else None


def _expanded(lines: np.ndarray, count: int) -> np.ndarray:
    """(times, value) written out, never more than `count` of them, whatever a damaged file says."""
    return lines[np.searchsorted(lines[:, 0].cumsum(), np.arange(count), side="right"), 1]


def _places(tables: dict[bytes, memoryview], lengths: np.ndarray) -> np.ndarray:
    """At which byte each frame starts: chunks have places, and so many frames one behind the other."""
    chunks = _numbers(tables[b"stco"], ">u4") if b"stco" in tables else _numbers(tables[b"co64"], ">u8")
    runs = _numbers(tables[b"stsc"], ">u4", 3)
    per_chunk = np.repeat(runs[:, 1], np.diff(np.append(runs[:, 0] - 1, len(chunks))))
    chunk = np.searchsorted(per_chunk.cumsum(), np.arange(len(lengths)), side="right")
    before = np.cumsum(lengths) - lengths
    first = np.cumsum(per_chunk) - per_chunk  # the first frame of each chunk
    return chunks[chunk] + before - before[first[chunk].clip(max=len(lengths) - 1)]


def _shown_from(tables: dict[bytes, memoryview]) -> int:
    """The tick before which an edit list hides what is decoded; where it has several parts, none is told."""
    if b"elst" not in tables:
        return 0

    box = tables[b"elst"]
    line = ">qq" if box[0] == 1 else ">ii"
    (count,) = struct.unpack_from(">I", box, 4)
    step = struct.calcsize(line) + 4
    starts = [struct.unpack_from(line, box, 8 + step * number)[1] for number in range(count)]
    starts = [start for start in starts if start >= 0]
    return starts[0] if len(starts) == 1 else 0
