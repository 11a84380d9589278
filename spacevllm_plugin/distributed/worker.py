"""What runs in a worker's process."""

import os
import pickle
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..data.storage import StorageError
from ..versions import installed
from .pieces import Piece
from .rounds import Answer


Work = Callable[[Piece], Answer]

# What a worker's results depend on beyond its arguments, see `cli/main.py`.
PASSED_ON = ("MKL_CBWR", "OMP_NUM_THREADS")
PREFIX = "SPACEVLLM_"
PACKAGES = ("llamafactory", "torch", "transformers")


@dataclass(frozen=True)
class Setting:
    """What must be in a worker as it is in the driver.

    Attributes:
        folder: The working folder: relative paths, and what is said of them, are as in one process.
        environment: Variables.
        versions: Of packages.
    """

    folder: str
    environment: dict[str, str]
    versions: dict[str, str | None]

    @classmethod
    def here(cls) -> "Setting":
        """This process's."""
        environment = {n: v for n, v in os.environ.items() if n in PASSED_ON or n.startswith(PREFIX)}
        return cls(os.getcwd(), environment, versions())

    def take_on(self) -> None:
        """Make it that of this process.

        Raises:
            OSError: This node does not have the folder.
            RuntimeError: It has other packages.
        """
        own = versions()
        differ = [
            f"{name} {own[name]}, {self.versions[name]} in the driver"
            for name in own
            if own[name] != self.versions[name]
        ]
        if differ:
            raise RuntimeError(f"{platform.node()} has {'; '.join(differ)}")

        os.environ.update(self.environment)
        os.chdir(self.folder)


def versions() -> dict[str, str | None]:
    """Versions of what results depend on."""
    return {"spacevllm_plugin": __version__, **{name: installed(name) for name in PACKAGES}}


class Worker:
    """Makes the work once (loads the model), then answers for one piece after the other.

    Args:
        make: Makes the work; raises where the set-up is wrong.
        setting: The driver's.
    """

    def __init__(self, make: Callable[[], Work], setting: Setting) -> None:
        self._make, self._setting = make, setting
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
                self._setting.take_on()
                self._work = self._make()
            except Exception as err:
                return Answer(problem=one_line(err), hopeless=True)

        try:
            return self._work(piece)
        except StorageError as err:
            return Answer(problem=str(err), blameless=True)
        except Exception as err:
            return Answer(problem=f"{type(err).__name__}: {one_line(err)}")


def one_line(err: Exception) -> str:
    """What an error says, in a line that fits a terminal."""
    return " ".join(str(err).split())[:500] or type(err).__name__
