"""Pickles that hold plain data and can do nothing else."""

import pickle
from pathlib import Path
from typing import Any

from ..data.shortened import shortened
from .base import SourceError, existing


class _PlainUnpickler(pickle._Unpickler):
    """Builds dicts, lists, tuples, strings, numbers; whatever else a pickle asks for goes through here.

    The one that is written in Python: to the other, eleven bytes can say that it is to make a table of 32 GB. All of
    RefCOCO takes it some seconds more.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only plain data is read")


def load_plain(path: Path) -> Any:
    """Read a pickle of plain data, one written by Python 2 too; it is read as a whole.

    Raises:
        SourceError: The file is missing or broken, or would build anything but plain data; none of it was run.
    """
    with open(existing(path, "pickle"), "rb") as file:
        try:
            return _PlainUnpickler(file, encoding="utf-8", errors="replace").load()
        # What a broken pickle raises is whatever its opcodes run into.
        except Exception as err:
            reason = shortened(" ".join(str(err).split())) or type(err).__name__
            raise SourceError(f"{path}: not a pickle of plain data ({reason})") from None
