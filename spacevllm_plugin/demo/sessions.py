"""What the page knows of each visitor: a folder and what was asked last. Nobody sees another's."""

import os
import re
import secrets
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..data.schema import AnnotationRow
from .answers import Answered
from .limits import Limits, Refused
from .medium import Medium, open_medium


MOST_SESSIONS = 200
IDLE_SECONDS = 2 * 60 * 60  # a visitor who left without saying so
GRACE_SECONDS = 20  # one whose connection broke: a phone's, when it is put away for a moment
UPLOAD_SECONDS = 10 * 60  # an upload that nobody asked about
GRADIO_FOLDER = re.compile(r"[0-9a-f]{64}")  # Gradio puts an upload into a folder named by its content's hash


@dataclass
class Session:
    """One visitor.

    Attributes:
        folder: Files for them alone; its name cannot be guessed, and is what Gradio serves them by.
        medium: What they look at.
        truths: Annotation rows they gave.
        answered: What the model answered, one for each sentence.
        upload: Gradio's copy of the medium.
        used: When they last asked for something, in seconds of the monotonic clock.
        left: When their connection ended, and nothing was asked since.
        lock: Held while the medium or the answers change.
    """

    folder: Path
    medium: Medium | None = None
    truths: list[AnnotationRow] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    upload: Path | None = None
    used: float = field(default_factory=time.monotonic)
    left: float | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def new_folder(self) -> Path:
        """A folder for one answer's files."""
        folder = self.folder / secrets.token_hex(4)
        folder.mkdir()
        return folder

    def forget(self) -> None:
        """Let go of the medium and all that came of it."""
        if self.upload is not None:
            _remove_upload(self.upload, self.medium.path)

        self.medium, self.truths, self.answered, self.upload = None, [], [], None
        for folder in self.folder.iterdir():
            shutil.rmtree(folder, ignore_errors=True)


class Sessions:
    """All visitors of a page."""

    def __init__(self, workspace: Path, limits: Limits) -> None:
        self.workspace = workspace
        self.limits = limits
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, visitor: str) -> Session:
        """The session of a visitor, made where there is none.

        Args:
            visitor: Gradio's `session_hash`.

        Raises:
            Refused: There are too many visitors.
        """
        with self._lock:
            if visitor not in self._sessions:
                if len(self._sessions) >= MOST_SESSIONS:
                    raise Refused("too many people are here: please come back later")

                folder = self.workspace / f"session_{secrets.token_hex(16)}"
                folder.mkdir(mode=0o700)
                self._sessions[visitor] = Session(folder)

            session = self._sessions[visitor]
            session.used, session.left = time.monotonic(), None
            return session

    def open(self, visitor: str, file: str, name: str) -> Session:
        """Take an upload as what a visitor looks at; what they looked at before is let go of, whatever this one is.

        Args:
            visitor: Gradio's `session_hash`.
            file: Path that the visitor's browser sent: taken only where Gradio puts uploads.
            name: What they call it.

        Raises:
            Refused: It is no upload, no medium, or breaks a limit.
        """
        session = self.of(visitor)
        upload = self.uploaded(file)
        with session.lock:
            # Linked first: what is let go of may be another upload of the same file.
            own = self.workspace / f"taken_{secrets.token_hex(16)}"
            _link(upload, own)
            session.forget()
            own = own.rename(session.new_folder() / "medium")
            try:
                session.medium = open_medium(own, name, self.limits)
                session.upload = upload
            except Refused:
                _remove_upload(upload, own)
                session.forget()
                raise

        return session

    def uploaded(self, file: str) -> Path:
        """The upload at a path; raises `Refused` for any other path."""
        path = Path(file)
        # By its form alone, before anything is opened; links are not followed out of it.
        inside = path.parent.parent == self.workspace and GRADIO_FOLDER.fullmatch(path.parent.name)
        if not inside or path.is_symlink() or not path.is_file():
            raise Refused("this is no uploaded file")

        return path

    def leave(self, visitor: str) -> None:
        """A visitor's connection ended; unless they come back soon, `sweep` closes their session."""
        with self._lock:
            if visitor in self._sessions:
                self._sessions[visitor].left = time.monotonic()

    def close(self, visitor: str) -> None:
        """All files of a visitor go."""
        with self._lock:
            session = self._sessions.pop(visitor, None)

        if session is not None:
            with session.lock:
                session.forget()
                shutil.rmtree(session.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Close the sessions of those who left, and remove uploads that nobody asked about."""
        now = time.monotonic()
        with self._lock:
            gone = [
                visitor
                for visitor, session in self._sessions.items()
                if now - session.used > IDLE_SECONDS or session.left and now - session.left > GRACE_SECONDS
            ]

        for visitor in gone:
            self.close(visitor)

        for path in self.workspace.iterdir():
            # Gradio also makes an empty `tmp…` for every file that it hands over, and never removes it.
            gradios = GRADIO_FOLDER.fullmatch(path.name) or path.name.startswith("tmp")
            if gradios and time.time() - path.stat().st_mtime > UPLOAD_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _link(upload: Path, own: Path) -> None:
    """A second name for an upload: two visitors who send the same file share Gradio's copy."""
    try:
        os.link(upload, own)
    except OSError:  # not every file system has hard links
        shutil.copyfile(upload, own)


def _remove_upload(upload: Path, own: Path) -> None:
    """Remove Gradio's copy of what a visitor has, unless it is another one by now, or somebody else has it, too."""
    with suppress(OSError):  # swept already, or the folder holds the same content under another name
        if upload.samefile(own) and upload.stat().st_nlink == 2:
            upload.unlink()
            upload.parent.rmdir()
