"""JSONL files that a killed process leaves usable, and files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
        file: Opened with `"ab"`.
        lines: Text without newlines.
    """
    file.write("".join(line + "\n" for line in lines).encode())
    file.flush()
    os.fsync(file.fileno())


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file that is there, be it by links."""
    return a.exists() and b.exists() and a.samefile(b)


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place when the block ends well; until then the old one, if any, stays.

    Several processes may write the same one: the last one's stays, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
