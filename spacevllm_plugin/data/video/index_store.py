"""Where indexes are remembered: the latest used in this process, and all on disk where a shelf for them is given.

Making one may mean reading a whole file; a worker process lives for an epoch at most.
"""

import hashlib
import json
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import Any, Protocol

import numpy as np

from ..media_cache import media_cache
from ..storage import absolute, is_remote
from ..timeline import Timeline
from .index import Identity, Index, identity, make_index
from .source import VideoInfo


# To be raised whenever the same file would have to get another index.
VERSION = 1
# Of all clocks in memory, in bytes; one of two hours at a varying rate has nearly 2 MB.
MEMORY = 64 * 2**20
# An index without its clock, roughly.
OVERHEAD = 2048


@dataclass
class Recent:
    """The indexes used last, by the identity of their files."""

    _indexes: OrderedDict[Identity, Index] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def get(self, key: Identity) -> Index | None:
        """The index, if it is here; counts as a use."""
        with self._lock:
            if key in self._indexes:
                self._indexes.move_to_end(key)

            return self._indexes.get(key)

    def put(self, key: Identity, index: Index) -> None:
        """Remember an index, and forget those unused for the longest time where there are too many."""
        with self._lock:
            if key not in self._indexes:
                self._indexes[key] = index
                self._bytes += _size(index)

            while self._bytes > MEMORY and len(self._indexes) > 1:
                self._bytes -= _size(self._indexes.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._indexes.clear()
            self._bytes = 0


recent = Recent()


class Shelf(Protocol):
    """Where indexes outlive their process; what goes wrong with it costs time, never the run."""

    def load(self, key: Identity) -> Index | None:
        """The index of a file as its identity has it; None where there is none, or one of an earlier content."""

    def save(self, key: Identity, index: Index) -> None:
        """Keep an index in place of an earlier one of the same path."""


def index_of(path: str, shelf: Shelf | None = None) -> Index:
    """The index of a video file as it is now.

    Args:
        path: The file.
        shelf: Where indexes are kept on disk, if at all. Those of remote files are kept in their cache where there is one
            and no other shelf is given.

    Raises:
        MediaError: The file cannot be used.
    """
    key = identity(path)
    index = recent.get(key)
    if index is None:
        shelf = shelf or _of_remote(path)
        index = shelf.load(key) if shelf is not None else None
        if index is None:
            index = make_index(path)
            if shelf is not None:
                shelf.save(key, index)

        recent.put(key, index)

    return index


def _of_remote(path: str) -> "IndexFolder | None":
    cache = media_cache() if is_remote(path) else None
    return IndexFolder(cache.indexes) if cache is not None else None


def facts_of(key: Identity, index: Index) -> dict[str, Any]:
    """An index without its timestamps, and the identity of the file it is of, as JSON has them."""
    info, timeline = index.info, index.info.timeline
    return {
        "stamp": _stamp(key),
        "width": info.width,
        "height": info.height,
        "num_frames": timeline.num_frames,
        "fps": timeline.fps,
        "start": index.start,
        "tick": [index.tick.numerator, index.tick.denominator],
        "whole": index.whole,
        "portable": index.portable,
    }


def from_facts(key: Identity, facts: dict[str, Any], timestamps: np.ndarray | None) -> Index | None:
    """The inverse of `facts_of`; None where they are of another content of the file, or of another version of ours."""
    if facts["stamp"] != _stamp(key):
        return None

    timeline = Timeline(facts["num_frames"], facts["fps"], timestamps)
    info = VideoInfo(facts["width"], facts["height"], timeline)
    return Index(info, facts["start"], Fraction(*facts["tick"]), facts["whole"], facts["portable"])


@dataclass(frozen=True)
class IndexFolder:
    """A shelf of a small file for each video, which any number of processes write to.

    Attributes:
        folder: Made if it does not exist.
    """

    folder: str

    def load(self, key: Identity) -> Index | None:
        """See `Shelf`."""
        try:
            with np.load(self._place(key), allow_pickle=False) as arrays:
                facts = json.loads(str(arrays["facts"]))
                return from_facts(key, facts, arrays["timestamps"] if "timestamps" in arrays else None)
        except Exception:  # whatever a damaged file makes of the readers: the index is made anew
            return None

    def save(self, key: Identity, index: Index) -> None:
        """See `Shelf`."""
        with suppress(OSError):  # a full disk
            self._save(self._place(key), key, index)

    def _place(self, key: Identity) -> Path:
        """One place for each path, so that the index of a changed file replaces the old one."""
        name = hashlib.sha256(absolute(key[0]).encode("utf-8", "surrogateescape")).hexdigest()
        return Path(self.folder, name[:2], f"{name}.npz")

    @staticmethod
    def _save(place: Path, key: Identity, index: Index) -> None:
        timestamps = index.info.timeline.timestamps
        clock = {} if timestamps is None else {"timestamps": timestamps}
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = None
        try:
            with NamedTemporaryFile(dir=place.parent, prefix=".", suffix=".tmp", delete=False) as file:
                temporary = Path(file.name)
                np.savez(file, facts=json.dumps(facts_of(key, index)), **clock)

            temporary.replace(place)
        except OSError:
            if temporary is not None:
                temporary.unlink(missing_ok=True)

            raise


def _size(index: Index) -> int:
    timestamps = index.info.timeline.timestamps
    return OVERHEAD + (0 if timestamps is None else timestamps.nbytes)


def _stamp(key: Identity) -> list[int]:
    return [VERSION, *key[1:]]
