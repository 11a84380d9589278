"""JSONL files that are appended to, and that a killed process leaves usable."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from .output import settle


def recover(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file that is appended to, with the byte each starts at; none if there is no file.

    Once all are read, a last line that a killed process left unfinished is cut off.
    """
    if not path.exists():
        return

    with open(path, "rb+") as file:
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                break

            yield whole, line
            whole += len(line)

        file.truncate(whole)


def append_lines(file: BinaryIO, lines: Iterable[str]) -> None:
    """Append lines (without their newline) in one write and wait until they are on the disk.

    Args:
        file: From `output`.
        lines: Text without newlines.
    """
    file.write("".join(line + "\n" for line in lines).encode())
    settle(file)
