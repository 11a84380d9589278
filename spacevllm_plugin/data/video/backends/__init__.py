"""The decoders that can stand behind the reader, and which of them is used.

A backend is a module with `decode(path, index, wanted, threads, keep)`: native frames (increasing) as upright RGB pictures,
each handed to `keep` once it is decoded and then let go. It raises `Unfit` for a file that it cannot read, or whose frames
it numbers or times otherwise than the index. PyAV reads that one, and every file that is not `Index.portable`, so that a
frame's number always means the same pixels.
"""

import os
from contextlib import suppress
from functools import cache
from importlib import import_module
from types import ModuleType

from ...storage import is_ranged
from ..index import Index
from ..source import BackendError
from .errors import Unfit
from .keep import Keep
from .threads import decode_threads


VARIABLE = "SPACEVLLM_VIDEO_BACKEND"
# In the order of benchmarks/reader.py, the fastest first: the first that can be imported is used.
BACKENDS = ("pyav", "torchcodec", "decord")


def decode(path: str, index: Index, wanted: list[int], keep: Keep) -> None:
    """Decode native frames (increasing) of a file with the backend that the environment, or else the order, names.

    Args:
        path: The file.
        index: Its index.
        wanted: Native frames, increasing.
        keep: Takes each of them once it is decoded.

    Raises:
        MediaError: The file cannot be opened, or one of the frames cannot be decoded.
        BackendError: `SPACEVLLM_VIDEO_BACKEND` names none that can be used.
    """
    if not wanted:
        return

    backend, threads = choose(os.environ.get(VARIABLE, "")), decode_threads()
    if index.portable and not is_ranged(path):  # the others want a file of its own
        with suppress(Unfit):
            backend.decode(path, index, wanted, threads, keep)
            return

    _load("pyav").decode(path, index, wanted, threads, keep)


@cache
def choose(name: str) -> ModuleType:
    """The backend of a name; without a name, the first of the order that can be imported.

    Raises:
        BackendError: No such name, or not installed.
    """
    if name and name not in BACKENDS:
        raise BackendError(f"{VARIABLE}={name}: no such video backend; there are: {', '.join(BACKENDS)}")

    failures = []
    for candidate in (name,) if name else BACKENDS:
        try:
            return _load(candidate)
        # Libraries that miss a shared library of FFmpeg's raise RuntimeError or OSError.
        except (ImportError, OSError, RuntimeError) as err:
            failures.append(f"{candidate} cannot be loaded ({str(err).strip().splitlines()[0]})")

    asked = f"{VARIABLE}={name}: " if name else ""
    raise BackendError(asked + "; ".join(failures))


def _load(name: str) -> ModuleType:
    return import_module(f".{name}", __name__)
