"""Every piece is answered once: what died or failed is tried again, what dies each time is split until it is one item."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from .pieces import Piece, windows


DIED = "the process that worked on it died"


@dataclass(frozen=True)
class Answer:
    """What a worker says of a piece.

    Attributes:
        value: What came of it; None: nothing.
        problem: Why it should be tried again, one line. With a value: only a part of it failed, which will do in the end.
        hopeless: No other piece will fare better: the problem is the set-up.
        blameless: The problem is no item's fault, such as a storage that is down: nothing fails of it, in the end all stops.
    """

    value: Any = None
    problem: str | None = None
    hopeless: bool = False
    blameless: bool = False


class Stopped(Exception):
    """The work cannot go on; the message is one line. What was answered before stays."""


class Crew(Protocol):
    """Workers.

    Attributes:
        size: How many.
    """

    size: int

    def __call__(self, pieces: list[Piece]) -> Iterator[tuple[str, Answer]]:
        """Names and answers in any order; a piece whose worker died has none, one that was lost with its node may have two."""
        ...


def work_off(
    pieces: Iterable[Piece], crew: Crew, retries: int, tell: Callable[[str], None] = lambda line: None
) -> Iterator[tuple[Piece, Answer]]:
    """Have pieces worked on.

    Args:
        pieces: Taken as they are needed.
        crew: The workers.
        retries: Further tries of a piece. After them it is split, and its parts are tried as often: in the end a single
            item has an answer without a value, whose `problem` says why.
        tell: Gets a line for whatever is tried again.

    Yields:
        Every piece, or all of its parts, with the last answer; of a hopeless one what came of it before.

    Raises:
        Stopped: An answer is hopeless, or blameless after the last try.
    """
    for window in windows(pieces):
        tries: Counter[str] = Counter()
        while window:
            left = {piece.name: piece for piece in window}
            window = []
            for name, answer in crew(list(left.values())):
                piece = left.pop(name, None)
                if piece is None:
                    continue

                if answer.hopeless:
                    if answer.value is not None:
                        yield piece, answer

                    raise Stopped(answer.problem)

                if answer.problem is None:
                    yield piece, answer
                else:
                    yield from _again(piece, answer, tries, retries, window, tell)

            for piece in left.values():
                yield from _again(piece, Answer(problem=DIED), tries, retries, window, tell)


def _again(
    piece: Piece,
    answer: Answer,
    tries: Counter[str],
    retries: int,
    window: list[Piece],
    tell: Callable[[str], None],
) -> Iterator[tuple[Piece, Answer]]:
    """Put a piece, or its parts, into the next window; or give it back where there is nothing more to try."""
    what = f"{piece.name} ({len(piece.items)} items): {answer.problem}"
    tries[piece.name] += 1
    if tries[piece.name] <= retries:
        tell(f"{what}; try {tries[piece.name] + 1} of {retries + 1}")
        window.append(piece)
    elif answer.blameless:
        raise Stopped(answer.problem)
    elif answer.value is None and (parts := piece.split()):
        tell(f"{what}; in {len(parts)} parts from here")
        window += parts
    else:
        tell(f"{what}; given up")
        yield piece, answer
