"""What a video is to its users: a reference, the facts about it, its frames, and the errors of an unusable one."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from ..storage import StorageError
from ..timeline import Timeline


class MediaError(Exception):
    """A medium that cannot be used; the message is one line that names the file and what is wrong."""


class BackendError(ValueError):
    """The environment asks for a backend or for threads that cannot be had; the message is one line."""


@dataclass(frozen=True)
class VideoRef:
    """What one `videos` entry means.

    Attributes:
        path: A video file, or a folder of frame images (in the order of their names, numbers by value).
        frames: Frame image files in order, instead of `path`.
        clip: Half-open range of native frames that is looked at; None means all.
        fps: Native frames per second of a frame list or folder; ignored for video files, which have their own clock.
    """

    path: str | None = None
    frames: tuple[str, ...] | None = None
    clip: tuple[int, int] | None = None
    fps: float | None = None

    @classmethod
    def parse(cls, source: "str | os.PathLike | list[str] | VideoRef") -> "VideoRef":
        """Read a plain path, a list of frame files, or what `encode` wrote."""
        if isinstance(source, VideoRef):
            return source

        if isinstance(source, (list, tuple)):
            return cls(frames=tuple(os.fspath(file) for file in source))

        source = os.fspath(source)
        if not source.startswith("{"):
            return cls(path=source)

        try:
            fields = json.loads(source)
            lists = {key: tuple(fields[key]) for key in ("frames", "clip") if fields.get(key) is not None}
            return cls(**(fields | lists))
        except (ValueError, TypeError) as err:
            raise MediaError(f"{source}: not a video reference ({err})") from None

    def encode(self) -> str:
        """A plain path where nothing but the path is set, else compact JSON; `parse` reads both."""
        if self == VideoRef(path=self.path) and self.path is not None and not self.path.startswith("{"):
            return self.path

        fields = {key: value for key, value in asdict(self).items() if value is not None}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video without reading its frames.

    Attributes:
        width: Pixels, as displayed (after the file's rotation flag).
        height: Pixels, as displayed.
        timeline: The clock of all native frames, whatever the clip; the first frame is at 0 seconds.
    """

    width: int
    height: int
    timeline: Timeline


@dataclass(frozen=True)
class Frames(Sequence[Any]):
    """Decoded frames, in the order asked for; as a sequence, their pictures.

    Attributes:
        ids: 0-based native frame numbers of the file, in presentation order.
        seconds: When each starts; the file's first frame is at 0. None for frame images without fps.
        images: Upright RGB pictures, or what the reader was told to make of each.
    """

    ids: tuple[int, ...]
    seconds: tuple[float, ...] | None
    images: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place):
        return self.images[place]


@contextmanager
def media_errors(name: object, what: str) -> Iterator[None]:
    """Where a medium is opened, decoded and resized: whatever the libraries make of a broken one is a `MediaError`.

    They have no error in common: Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error and an exception
    of its own for decompression bombs, to name some.

    Args:
        name: The medium, for the message.
        what: What it turns out not to be.
    """
    try:
        yield
    except (MediaError, BackendError, StorageError):  # the last is no fault of the medium's
        raise
    except Exception as err:
        reason = one_line(err)
        if not isinstance(err, (OSError, ValueError)):
            reason = f"{type(err).__name__}: {reason}"

        raise MediaError(f"{name}: {what} ({reason})") from err


def one_line(err: Exception) -> str:
    """An error's message without line breaks and, for an error of the system, without the path."""
    return " ".join(str(getattr(err, "strerror", None) or err).split())
