"""A bounded cache, on a local disk, of the parts of remote files that were read."""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from .bounded import BoundedFolder


# By the environment, as decoders are told too: worker processes of any kind inherit it.
FOLDER, GIGABYTES = "SPACEVLLM_MEDIA_CACHE_DIR", "SPACEVLLM_MEDIA_CACHE_GB"
DEFAULT_GB = 20.0


@dataclass(frozen=True)
class MediaCache(BoundedFolder):
    """Byte ranges of remote files, at most `limit` bytes of them.

    A key is address, state and range, so that a file that was replaced has others.
    """

    suffix: ClassVar[str] = ".part"
    version: ClassVar[int] = 1
    option: ClassVar[str] = "media_cache"
    others: ClassVar[str] = "other parts are fetched each time"

    def get(self, path: Path, size: int) -> bytes | None:
        """The bytes of an entry, or None; counts as a use."""
        try:
            data = path.read_bytes()
        except OSError:  # never stored, or evicted, perhaps just now
            return None

        if len(data) != size:  # cut off by a full disk or a crash of the machine
            with suppress(OSError):
                path.unlink()

            return None

        self.mark_used(path)
        return data

    def put(self, path: Path, data: bytes) -> None:
        """Store bytes; a cache that cannot be written to is a warning, never an error of the run."""
        self.store(path, len(data), lambda file: file.write(data))


def use_media_cache(folder: str, gigabytes: float) -> None:
    """Let this process and those that it starts keep what they read of remote files in `folder`.

    Raises:
        ValueError: The limit is not positive, or the folder cannot be written to.
    """
    os.environ[FOLDER], os.environ[GIGABYTES] = folder, repr(gigabytes)
    media_cache()


def media_cache() -> MediaCache | None:
    """The cache that the environment names, if any; raises `ValueError` as `use_media_cache` does."""
    folder = os.environ.get(FOLDER)
    return _opened(folder, os.environ.get(GIGABYTES) or str(DEFAULT_GB)) if folder else None


@cache
def _opened(folder: str, gigabytes: str) -> MediaCache:
    # Once in a process, and handed on by a fork: what a run has used since it began, it keeps.
    try:
        limit = float(gigabytes)
    except ValueError:
        raise ValueError(f"{GIGABYTES}={gigabytes}: not a number of gigabytes") from None

    return MediaCache.create(folder, limit)
