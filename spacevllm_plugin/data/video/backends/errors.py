"""What goes wrong with backends, and how their numbering is held against the index."""

import numpy as np

from ..index import JITTER, Index


class Unfit(Exception):
    """This backend cannot be trusted with this file."""


def places(path: str, index: Index, wanted: list[int], starts: np.ndarray) -> list[int]:
    """Where native frames lie among the frames of a backend, found by time.

    Args:
        path: The file, for the message.
        index: Its index.
        wanted: Native frames.
        starts: When each of the backend's frames starts, in seconds of the file's own clock, increasing.

    Raises:
        Unfit: One of the frames has no counterpart at its time.
    """
    times = index.file_seconds(wanted)
    found = np.searchsorted((starts[1:] + starts[:-1]) / 2, times)
    check_times(path, index, times, starts[found])
    return found.tolist()


def check_times(path: str, index: Index, expected: np.ndarray, found: np.ndarray) -> None:
    """Raise `Unfit` where frames are not at the times (seconds) at which they were expected."""
    if len(found) != len(expected) or np.abs(found - expected).max() > JITTER / index.info.timeline.fps:
        raise Unfit(f"{path}: other times than the index")
