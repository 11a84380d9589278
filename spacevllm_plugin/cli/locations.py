"""Rows, media folders and outputs of a command, on a disk or at an address (`s3://…`)."""

import argparse
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..data.storage import NO_SECRETS, download, holds_secret, is_remote, local_copy, parent, shown, upload


def location(text: str) -> Path | str:
    """Type of an argument: a path, or an address as it is (a `Path` would take a slash away)."""
    if holds_secret(text):
        raise argparse.ArgumentTypeError(NO_SECRETS)

    return text if is_remote(text) else Path(text)


def local_path(text: str) -> Path:
    """What `type=Path` means to every command: a place of this machine, and not an address mistaken for one."""
    if is_remote(text):
        raise argparse.ArgumentTypeError(f"{shown(text)}: this takes a path of this machine, see docs/storage.md")

    return Path(text)


def beside(place: Path | str) -> Path | str:
    """The folder that a file is in."""
    return parent(place) if isinstance(place, str) else place.parent


def file_name(place: Path | str) -> str:
    """The last part of a path or an address."""
    return place.rpartition("/")[2] if isinstance(place, str) else place.name


@contextmanager
def local_rows(place: Path | str) -> Iterator[Path]:
    """A file of rows on this machine's disk: rows are read as a whole, so a remote one is copied while this lasts."""
    with local_copy(str(place)) as file:
        yield Path(file)


@contextmanager
def local_output(place: Path | str) -> Iterator[Path]:
    """A file that is appended to, on this machine's disk: no storage appends.

    What is at an address already is gone on with. The whole file is put there when this ends well; until then it lies
    below `~/.cache`, by its address, where the next run finds it.
    """
    if isinstance(place, Path):
        yield place
        return

    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    file = Path(cache, "spacevllm", "outputs", hashlib.sha256(place.encode()).hexdigest()[:16], file_name(place))
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f".{os.getpid()}.tmp")
        try:
            with suppress(FileNotFoundError):
                download(place, str(fresh))
                fresh.replace(file)
        finally:
            fresh.unlink(missing_ok=True)

    yield file
    upload(str(file), place)
    file.unlink()
