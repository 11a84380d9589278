"""What runs in a worker's process."""

import os
import pickle
from collections.abc import Callable
from typing import Any

from .pieces import Piece
from .rounds import Answer


Work = Callable[[Piece], Answer]


class Worker:
    """Makes the work once (loads the model), then answers for one piece after the other.

    Args:
        make: Makes the work; raises where the set-up is wrong.
        folder: The driver's working folder: relative paths, and what is said of them, are as in one process.
        environment: Variables that results or decoders depend on, as in the driver: a node has its own.
    """

    def __init__(self, make: Callable[[], Work], folder: str, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._make, self._folder = make, folder
        self._work: Work | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """One row of Ray Data: a pickled piece in, its name and answer out."""
        piece = pickle.loads(row["piece"])
        return {"answer": pickle.dumps((piece.name, self.answer(piece)))}

    def answer(self, piece: Piece) -> Answer:
        """Work on a piece; whatever is raised becomes a problem."""
        if self._work is None:
            # Not in `__init__`: an error there would be Ray's, with a stack trace.
            try:
                os.chdir(self._folder)
                self._work = self._make()
            except Exception as err:
                return Answer(problem=one_line(err), hopeless=True)

        try:
            return self._work(piece)
        except Exception as err:
            return Answer(problem=f"{type(err).__name__}: {one_line(err)}")


def one_line(err: Exception) -> str:
    """What an error says, in a line that fits a terminal."""
    return " ".join(str(err).split())[:500] or type(err).__name__
