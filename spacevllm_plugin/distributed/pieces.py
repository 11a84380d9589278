"""Pieces of work: what one worker gets at a time, and what is lost with it when it dies."""

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar


# Pickled bytes handed over at a time: what the cluster holds of the input, however long that is.
WINDOW_BYTES = 128 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Attributes:
        name: The same in every session for the same work; fit for a file's name.
        batches: Groups of items that are worked on together.
    """

    name: str
    batches: tuple[tuple[Any, ...], ...]

    @property
    def items(self) -> list[Any]:
        """All items, in order."""
        return [item for batch in self.batches for item in batch]

    def split(self) -> list["Piece"]:
        """Smaller pieces of the same work: batch by batch, a batch item by item; none of a single item."""
        if len(self.batches) > 1:
            parts = [(batch,) for batch in self.batches]
        elif len(self.items) > 1:
            parts = [((item,),) for item in self.items]
        else:
            return []

        return [Piece(f"{self.name}.{number}", part) for number, part in enumerate(parts)]


def chunks(values: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """The values, `size` at a time."""
    values = iter(values)
    while some := tuple(islice(values, size)):
        yield some


def windows(pieces: Iterable[Piece], most: int = WINDOW_BYTES) -> Iterator[list[Piece]]:
    """The pieces, as many at a time as fit into `most` pickled bytes, at least one."""
    window: list[Piece] = []
    total = 0
    for piece in pieces:
        size = len(pickle.dumps(piece))
        if window and total + size > most:
            yield window
            window, total = [], 0

        window.append(piece)
        total += size

    if window:
        yield window
