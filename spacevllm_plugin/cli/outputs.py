"""What commands with outputs find out before their work: that the outputs can be written, and replace no input."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path

from ..data.output import OutputError, check_folder, descriptor, destination, same_file
from ..data.storage import is_remote
from .errors import CommandError, UsageError


STDOUT = 1
# By option: unset, one path, or several of an option that may be repeated.
Paths = Mapping[str, str | Path | list[Path | str] | None]


def check_outputs(inputs: Paths = {}, outputs: Paths = {}, files: Paths = {}, folders: Paths = {}) -> None:
    """Check what the options of a command name; nothing is touched, and no storage asked.

    Args:
        inputs: What no output may replace.
        outputs: Files or streams.
        files: Files only: those that are gone on with, or that have others beside them.
        folders: Folders, there or not.

    Raises:
        UsageError: An output is the file of an input or of another output.
        CommandError: An output cannot be written.
    """
    for option, folder in _pairs(folders):
        try:
            if is_remote(folder):
                _check_address(folder)
            else:
                check_folder(folder)
        except OutputError as err:
            raise CommandError(f"{option}: {err}") from None

    taken = list(_pairs(inputs))
    for option, path in (*_pairs(outputs), *_pairs(files)):
        try:
            file = _check_address(path) if is_remote(path) else destination(path)
        except OutputError as err:
            raise CommandError(f"{option}: {err}") from None

        if file is None:
            if option in files:
                raise CommandError(f"{option}: {path} is no regular file, which it has to be")

            continue  # nothing in a stream is replaced

        for other, there in taken:
            if _are_one(there, file):
                raise UsageError(f"{option} {path} is the file of {other}")

        taken.append((option, path))


def _check_address(address: str) -> str:
    if address.startswith("http"):
        raise OutputError(f"{address}: web servers are read from, not written to")

    return address


def _are_one(place: Path | str, other: Path | str) -> bool:
    if is_remote(place) or is_remote(other):
        return place == other

    return os.path.realpath(place) == str(other) or same_file(place, other)


def apart_from(*outputs: Path | str | None) -> AbstractContextManager:
    """What else is printed goes to stderr where one of the outputs is this process's stdout."""
    taken = any(path is not None and descriptor(path) == STDOUT for path in outputs)
    return redirect_stdout(sys.stderr) if taken else nullcontext()


def _pairs(paths: Paths) -> Iterator[tuple[str, Path | str]]:
    """Each option with a path, or with an address as it is."""
    for option, value in paths.items():
        for path in value if isinstance(value, list) else [value]:
            if path is not None:
                yield option, path if is_remote(path) else Path(path)
