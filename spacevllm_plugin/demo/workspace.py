"""The folder of one run, where all its temporary files lie: gone at its end, or when the next run starts."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..data.scratch import Scratch


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for this run, which Gradio keeps its files in, too, as long as the block lasts."""
    scratch = Scratch(Path(tempfile.gettempdir()).resolve())
    before = os.environ.get("GRADIO_TEMP_DIR"), tempfile.tempdir
    try:
        # Gradio keeps uploads in the first, and the parts of one that is under way in the second.
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = str(scratch.path)
        yield scratch.path
    finally:
        tempfile.tempdir = before[1]
        if before[0] is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before[0]

        scratch.close()
