"""JSONL files that are appended to, and that a killed process leaves usable."""

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .output import settle


class Line(NamedTuple):
    """A line that is not blank.

    Attributes:
        number: 1-based.
        offset: The byte of the file that it starts at.
        text: Without its end.
    """

    number: int
    offset: int
    text: bytes


def filled_lines(file: BinaryIO) -> Iterator[Line]:
    """The lines that are not blank; a mark that says UTF-8, as some editors write it, is no part of the first."""
    offset = 0
    for number, line in enumerate(file, start=1):
        mark = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
        text = line[mark:].rstrip(b"\r\n")
        if text and not text.isspace():
            yield Line(number, offset + mark, text)

        offset += len(line)


def json_problem(text: bytes | str, said: str) -> str:
    """Why a line is no JSON.

    Args:
        text: The line.
        said: What the reader of JSON says, which is less clear where the line is not UTF-8, or not text.
    """
    line = text.encode() if isinstance(text, str) else text
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "not UTF-8 text, but UTF-16"

    if b"\0" in line:
        return f"not UTF-8 text, but UTF-16 or no text at all: a NUL byte at column {line.index(0) + 1}"

    try:
        line.decode()
    except UnicodeDecodeError as err:
        return f"not UTF-8 text: byte 0x{line[err.start]:02x} at column {err.start + 1}"

    if "hex escape" in said and b"\\ud" in line.lower():
        return f"{said}: `\\ud800` to `\\udfff` stand for a character in pairs only"

    return said


def recover(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file that is appended to, with the byte each starts at; none if there is no file.

    Once all are read, a last line that a killed process left unfinished is cut off. A last line that is no object's
    beginning was never ours: it is handed out like the others, for the reader to refuse, and stays.
    """
    if not path.exists():
        return

    with open(path, "rb+") as file:
        whole = 0
        for line in file:
            if line.startswith(b"{") and not line.endswith(b"\n"):
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
