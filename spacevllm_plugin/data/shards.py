"""A folder of JSONL files, each whole or not there: what many processes write together, one file at a time."""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from .output import replaced


SUFFIX = ".jsonl"


class Shards:
    """The folder.

    Two processes may write the same shard: the last one's stays, whole.

    Args:
        folder: Made with the first shard; on storage that all who write it share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, name: str) -> bool:
        return self._file(name).exists()

    def arrives(self, name: str, within: float) -> bool:
        """Whether a shard that another machine has written is seen here, at the latest after so many seconds."""
        deadline = time.monotonic() + within
        while name not in self:
            if time.monotonic() > deadline:
                return False

            time.sleep(0.5)

        return True

    def write(self, name: str, lines: Iterable[str]) -> None:
        """Write a shard.

        Args:
            name: Its name, without a suffix.
            lines: Text without newlines.
        """
        with replaced(self._file(name)) as file:
            file.write("".join(line + "\n" for line in lines).encode())

    def read(self, name: str) -> list[bytes]:
        """The lines of a shard; none if it is not there."""
        try:
            return self._file(name).read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def files(self) -> Iterator[Path]:
        """The shards' files, by name."""
        # What a killed process was writing begins with a dot.
        files = (file for file in self.folder.glob(f"*{SUFFIX}") if not file.name.startswith("."))
        yield from sorted(files, key=lambda file: file.stem)

    def remove(self) -> None:
        """Remove the shards, what killed processes left of some, and the folder if nothing else is in it."""
        for file in (*self.files(), *self.folder.glob(f".*.tmp{SUFFIX}")):
            file.unlink(missing_ok=True)

        with suppress(OSError):
            self.folder.rmdir()

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"
