"""Raw text files as bytes that a parser can be given: UTF-8, not packed, and not nested beyond measure."""

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from .base import SourceError


# Annotations have some five levels. A parser that notes the way to each value, or that calls itself, is lost at 100,000.
DEEPEST = 100

_FOREIGN = (
    (codecs.BOM_UTF16_LE, "UTF-16 or UTF-32"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
    (b"\x1f\x8b", "packed by gzip"),
    (b"PK\x03\x04", "packed by zip"),
)
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


@contextmanager
def raw_text(path: Path) -> Iterator[BinaryIO]:
    """A text file, open behind the mark that says UTF-8, if it has one.

    Raises:
        SourceError: It cannot be read, or is seen to be no UTF-8 text by its first bytes.
    """
    try:
        with open(path, "rb") as file:
            head = file.peek(4)[:4]
            kind = next((kind for mark, kind in _FOREIGN if head.startswith(mark)), None)
            if kind is None and b"\0" in head:
                kind = "UTF-16 or binary"

            if kind is not None:
                raise SourceError(f"{path}: not UTF-8 text, but {kind}")

            if head.startswith(codecs.BOM_UTF8):
                file.seek(len(codecs.BOM_UTF8))

            yield file
    except OSError as err:
        raise SourceError(f"{path}: {err.strerror or err}") from None


class JSONBytes:
    """The bytes of a JSON file, for a parser that reads it in parts: they move a bar, and are looked at on their way."""

    def __init__(self, path: Path, file: BinaryIO, bar: tqdm) -> None:
        self.path, self.file, self.bar = path, file, bar
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._done = 0
        self._depth = Depth()

    def read(self, size: int = -1) -> bytes:
        """The next part.

        Raises:
            SourceError: It is not UTF-8, or nested too deeply.
        """
        data = self.file.read(size)
        self.bar.update(len(data))
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError as err:
            # The decoder may have kept the beginning of a character from the last part.
            place = self._done + err.start - (len(err.object) - len(data))
            byte = err.object[err.start]
            raise SourceError(f"{self.path}: not UTF-8 text (byte 0x{byte:02x} at offset {place})") from None

        self._done += len(data)
        if self._depth.reached(data) > DEEPEST:
            raise SourceError(f"{self.path}: not usable JSON (nested more than {DEEPEST} deep)")

        return data


class Depth:
    """How deep a JSON text is nested, told part by part without parsing it."""

    def __init__(self) -> None:
        self._open = 0  # brackets at the end of the last part
        self._in_string = self._after_backslash = False

    def reached(self, data: bytes) -> int:
        """How deep one more part goes, at most: the truth is between half of it and all."""
        data = data[self._after_backslash :]
        self._after_backslash = bool((len(data) - len(data.rstrip(b"\\"))) % 2)
        if b"\\" in data:
            data = _ESCAPED.sub(b"", data)

        parts = data.translate(_ONE_KIND, _NO_MARKS).split(b'"')
        brackets = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        levels = 0
        while levels <= DEEPEST and b"[]" in brackets:
            brackets = brackets.replace(b"[]", b"")
            levels += 1

        before, self._open = self._open, self._open + brackets.count(b"[") - brackets.count(b"]")
        return levels + max(before, self._open)
