"""A Uni-STG stage by many workers: they process rows, the driver alone writes the journal."""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from ..unistg.rows import Kept, Rejected
from ..unistg.stage import GAVE_UP, Stage, StageError
from .pieces import Piece, chunks
from .rounds import Answer, Crew, Stopped, work_off
from .worker import Work


# Rows of a piece: what is done again when a process dies, and what it costs to hand one over, are both little.
ROWS_AT_ONCE = {"analyze": 64, "annotate": 4, "refine": 256, "filter": 256}


class StageWork:
    """The work of one worker.

    Args:
        stage: The step.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __call__(self, piece: Piece) -> Answer:
        """Id and result of every row, in any order; where the stage stops, of those before."""
        results = []
        try:
            results.extend(self._stage.process(iter(piece.items)))
        except StageError as err:
            return Answer(results, str(err), hopeless=True)

        return Answer(results)


def make_stage_work(make: Callable[[], Stage]) -> Work:
    """Make the stage, in a worker."""
    return StageWork(make())


class SharedStage:
    """A stage whose rows a crew processes; see `unistg.stage.Stage`.

    Args:
        stage: The same step in this process, which processes nothing.
        crew: Of `make_stage_work`.
        retries: Further tries of a piece.
        tell: Gets a line for whatever is tried again.
    """

    def __init__(
        self, stage: Stage, crew: Crew, retries: int, tell: Callable[[str], None] = lambda line: None
    ) -> None:
        self.name, self.reads, self.options, self.reasons = stage.name, stage.reads, stage.options, stage.reasons
        self._crew, self._retries, self._tell = crew, retries, tell

    def process(self, rows: Iterator[BaseModel]) -> Iterator[tuple[str, Kept | Rejected]]:
        """Piece by piece as they are ready.

        Raises:
            StageError: The stage stopped in a worker.
        """
        parts = enumerate(chunks(rows, ROWS_AT_ONCE[self.name]))
        pieces = (Piece(f"{number:06d}", (some,)) for number, some in parts)
        try:
            for piece, answer in work_off(pieces, self._crew, self._retries, self._tell):
                yield from _results(piece, answer)
        except Stopped as err:
            raise StageError(str(err)) from None


def _results(piece: Piece, answer: Answer) -> list[tuple[str, Any]]:
    if answer.value is not None:
        return answer.value

    (row,) = piece.items
    return [(row.id, Rejected(GAVE_UP, answer.problem))]
