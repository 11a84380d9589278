"""The one place where outputs are written: files whole or not at all, several of them together; streams as they come."""

import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from .storage import is_remote, suffix, upload


STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}
# What only a network or a disk's driver writes to.
NOT_WRITTEN = ((stat.S_ISBLK, "block device"), (stat.S_ISSOCK, "socket"))


class OutputError(OSError):
    """Why an output cannot be written: one line that names it."""


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file that is there, be it by links."""
    return a.exists() and b.exists() and a.samefile(b)


def descriptor(path: Path | str) -> int | None:
    """The number of an open file of this process where a path names one, as `/dev/stdout` and bash's `>(…)` do."""
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    return int(found[1]) if found else STANDARD.get(str(path))


def destination(path: Path) -> Path | None:
    """Find out where an output goes, and that it can be written there; nothing is touched.

    Returns:
        The file to make or to replace, links followed; None for a stream, which is written as it is: a pipe, a character
        device (a terminal, `/dev/null`), an open file of this process.

    Raises:
        OutputError: It is a folder, a socket or a block device, or must not be written.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except OSError as err:
        raise _failed(path, err) from None

    if mode is not None:
        if stat.S_ISDIR(mode):
            raise OutputError(f"{path} is a folder, not a file")

        if descriptor(path) is not None:
            return None

        for is_kind, name in NOT_WRITTEN:
            if is_kind(mode):
                raise OutputError(f"{path} is a {name}, not a file")

        if not os.access(path, os.W_OK):
            raise OutputError(f"{path} may not be written")

        if not stat.S_ISREG(mode):
            return None

    file = Path(os.path.realpath(path))
    check_folder(file.parent)
    return file


def check_folder(folder: Path) -> None:
    """Find out that files can be made in a folder, which need not be there yet; nothing is touched.

    Raises:
        OutputError: They cannot.
    """
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise OutputError(f"{there} is not a folder")

    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{there} may not be written into")


class Outputs:
    """Files of one command that appear together when the block ends well; until then, and otherwise, the old ones stay.

    A file is written under another name in its folder. All of them are complete, on the disk and closed before the first
    one is moved to where it belongs, and if one cannot be moved those before it are put back. What remains possible: a
    machine that stops between two moves, and a file system without hard links on which a later move fails, leave new
    files beside old ones, each whole. A file that is replaced keeps its permissions, a link to it stays. Several
    processes may write the same one: the last one's stays, whole. A stream gets what is written when it is written.

    A file at an address is written to a temporary one of this machine, and put there, whole, before any file here is moved.
    """

    def __init__(self) -> None:
        self._streams: list[BinaryIO] = []
        self._folder: TemporaryDirectory | None = None
        self._addresses: dict[str, BinaryIO] = {}
        self._files: dict[Path, BinaryIO] = {}  # where it belongs -> what is written

    def open(self, path: Path | str) -> BinaryIO:
        """An output to write, at a path or an address; its folder is made if it is not there.

        Raises:
            OutputError: See `destination`, or it is an output already.
        """
        if is_remote(path):
            return self._open_at(path)

        file = destination(path)
        if file in self._files:
            raise OutputError(f"{path} is another output as well")

        try:
            if file is None:
                number = descriptor(path)
                self._streams.append(_open(path if number is None else os.dup(number), "wb", path))
                return self._streams[-1]

            file.parent.mkdir(parents=True, exist_ok=True)
            # Short, whatever the length of the file's own name; with its suffix, for what goes by that.
            temporary = file.with_name(f".{file.stem[:40]}.{secrets.token_hex(4)}.tmp{file.suffix}")
            self._files[file] = _open(temporary, "xb", path)
            if file.exists():
                os.fchmod(self._files[file].fileno(), stat.S_IMODE(file.stat().st_mode))
        except OSError as err:
            raise _failed(path, err) from None

        return self._files[file]

    def _open_at(self, address: str) -> BinaryIO:
        if address in self._addresses:
            raise OutputError(f"{address} is another output as well")

        self._folder = self._folder or TemporaryDirectory()
        name = f"{len(self._addresses)}{suffix(address)}"
        self._addresses[address] = _open(Path(self._folder.name, name), "xb", address)
        return self._addresses[address]

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        moves = [(Path(output.name), file) for file, output in self._files.items()]
        everything = (*self._files.values(), *self._addresses.values(), *self._streams)
        try:
            if kind is None:
                for output in self._files.values():
                    settle(output)

                for output in everything:
                    output.close()

                for address, output in self._addresses.items():
                    upload(os.fspath(output.name), address)

                _move(moves)
        finally:
            with suppress(OSError):
                for output in everything:
                    output.close()

            if self._folder is not None:
                self._folder.cleanup()

            for temporary, _ in moves:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)


@contextmanager
def replaced(path: Path | str) -> Iterator[BinaryIO]:
    """One of `Outputs` alone."""
    with Outputs() as outputs:
        yield outputs.open(path)


def appended(path: Path) -> BinaryIO:
    """A file to append to, in its folder, which is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _open(path, "ab", path)


def settle(file: BinaryIO) -> None:
    """Wait until what was written to a file from here is on the disk."""
    file.flush()
    file.raw.sync()


class _File(io.FileIO):
    """Its errors name the output that it is written for."""

    def __init__(self, file: Path | int, mode: str, output: Path | str) -> None:
        super().__init__(file, mode)
        self._output = output

    def write(self, data: bytes) -> int | None:
        try:
            return super().write(data)
        except OSError as err:
            raise _failed(self._output, err) from None

    def sync(self) -> None:
        try:
            os.fsync(self.fileno())
        except OSError as err:
            raise _failed(self._output, err) from None


def _open(file: Path | int, mode: str, output: Path | str) -> BinaryIO:
    return io.BufferedWriter(_File(file, mode, output), 1 << 16)


def _failed(path: Path | str, err: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {err.strerror or err}")


def _move(moves: list[tuple[Path, Path]]) -> None:
    """Move complete files to where they belong; if one cannot be, those before it are put back."""
    with ExitStack() as leave, ExitStack() as undo:
        for temporary, file in moves:
            old = _second_name(file) if len(moves) > 1 and file.exists() else None
            if old is not None:
                leave.callback(old.unlink, missing_ok=True)

            new = not file.exists()
            try:
                os.replace(temporary, file)
            except OSError as err:
                raise _failed(file, err) from None

            if old is not None:
                undo.callback(os.replace, old, file)
            elif new:
                undo.callback(file.unlink)

        undo.pop_all()


def _second_name(file: Path) -> Path | None:
    name = file.with_name(f".{file.stem[:40]}.{secrets.token_hex(4)}.old")
    try:
        os.link(file, name)
    except OSError:  # not every file system has hard links, nor are they always allowed
        return None

    return name
