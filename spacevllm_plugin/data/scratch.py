"""A folder for files that somebody looks at now and nobody wants later."""

import atexit
import fcntl
import os
import secrets
import shutil
from pathlib import Path
from tempfile import mkdtemp


PREFIX = "spacevllm_scratch_"
LOCK = ".lock"


class Scratch:
    """A folder that is removed when the process ends; what processes left that were killed goes at the next start.

    A live process holds a lock on its folder: the system lets go of it however the process ends.

    Args:
        parent: Where the folder is made; may be shared by several processes.

    Attributes:
        path: The folder; nobody else may look into it.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_left(parent)
        # Locked before it has the name that others look for.
        hidden = Path(mkdtemp(prefix=f".{PREFIX}", dir=parent))
        self._lock = (hidden / LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = parent / hidden.name.removeprefix(".")
        hidden.rename(self.path)
        self._owner = os.getpid()
        atexit.register(self.close)

    def folder(self, owner: str) -> Path:
        """A new folder among an owner's, which nobody can guess who does not know its name."""
        folder = self.path / owner / secrets.token_hex(16)
        folder.mkdir(parents=True)
        return folder

    def forget(self, owner: str) -> None:
        """Remove all folders of one owner."""
        shutil.rmtree(self.path / owner, ignore_errors=True)

    def close(self) -> None:
        """Remove everything."""
        if os.getpid() == self._owner:  # not in a child that was forked
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.close()


def _remove_left(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            # Not a link, and not another user's: whoever may write into a shared folder may name things like ours.
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue

            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # its process lives, or has just removed it
