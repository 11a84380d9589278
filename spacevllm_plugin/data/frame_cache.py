"""A bounded cache of sampled frames on disk, shared by dataloader workers, ranks and runs: a plain `.npy` an entry."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .bounded import BoundedFolder


@dataclass(frozen=True)
class FrameCache(BoundedFolder):
    """Frames by key, at most `limit` bytes of them, see `BoundedFolder`; a hit costs little more than reading a file."""

    suffix: ClassVar[str] = ".npy"
    version: ClassVar[int] = 1
    option: ClassVar[str] = "frame_cache"
    others: ClassVar[str] = "other videos are decoded each time"

    def get(self, path: Path) -> np.ndarray | None:
        """The frames of an entry, (n, 3, height, width) uint8, or None; counts as a use."""
        try:
            frames = np.load(path, allow_pickle=False)
        except FileNotFoundError:  # never stored, or evicted, perhaps just now
            return None
        except (OSError, ValueError, EOFError):  # cut off by a full disk or a crash of the machine
            with suppress(OSError):
                path.unlink()

            return None

        self.mark_used(path)
        return frames

    def put(self, path: Path, frames: np.ndarray) -> None:
        """Store frames; a cache that cannot be written to is a warning, never an error of the run."""
        self.store(path, frames.nbytes, lambda file: np.save(file, frames))
