"""The folder of one run, where all its temporary files lie: gone at its end, or when the next run starts."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


PREFIX = "spacevllm_demo_"
LOCK = "lock"


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for this run, which Gradio keeps its files in, too, as long as the block lasts.

    It is held by a lock, which the system takes away from a run that crashed: that is how the next one knows what to remove.
    """
    parent = Path(tempfile.gettempdir())
    _remove_leftovers(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
    before = os.environ.get("GRADIO_TEMP_DIR"), tempfile.tempdir
    with open(folder / LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            # Gradio keeps uploads in the first, and the parts of one that is under way in the second.
            os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = str(folder)
            yield folder
        finally:
            tempfile.tempdir = before[1]
            if before[0] is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before[0]

            shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        # Not a link, and not another user's: whoever may write into the temporary folder may name things like ours.
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
            continue

        if not (folder / LOCK).exists():
            continue  # just being made

        with open(folder / LOCK, "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its run goes on

            shutil.rmtree(folder, ignore_errors=True)
