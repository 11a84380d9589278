"""References to media inside tar files, by the bytes that they take up there: `SHARD.tar#OFFSET+SIZE`. Nothing is unpacked."""

import re
import tarfile
from typing import Any, BinaryIO, NamedTuple


REFERENCE = re.compile(r"(.+\.tar)#(\d+)\+(\d+)", re.DOTALL)


class Member(NamedTuple):
    """A part of a tar file.

    Attributes:
        shard: The tar file.
        offset: Where the medium's first byte is in it.
        size: Its bytes.
    """

    shard: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}#{self.offset}+{self.size}"


def member_of(path: Any) -> Member | None:
    """What a path refers to inside a tar file; None for any other path."""
    found = REFERENCE.fullmatch(path) if isinstance(path, str) and ".tar#" in path else None
    return Member(found[1], int(found[2]), int(found[3])) if found else None


def containing_file(path: str) -> str:
    """The file on the disk, or the address, that a medium lies in: of most media itself."""
    member = member_of(path)
    return path if member is None else member.shard


def add_member(tar: tarfile.TarFile, shard: str, name: str, file: BinaryIO, size: int) -> Member:
    """Add a file to a tar file that is being written.

    Args:
        tar: The tar file.
        shard: As references call it.
        name: What the file is called in it.
        file: Where its bytes come from.
        size: How many.
    """
    info = tarfile.TarInfo(name)
    info.size = size
    tar.addfile(info, file)
    return Member(shard, tar.offset - -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, size)
