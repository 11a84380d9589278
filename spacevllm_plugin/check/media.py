"""What one media file holds, found out in a worker process."""

import os
from dataclasses import astuple, dataclass, replace
from typing import NamedTuple

from ..data.facts import Facts, has_clock
from ..data.plan import Preprocessing, plan_video
from ..data.storage import StorageError, is_ranged, is_remote, look, stat
from ..data.timeline import FrameSampling
from ..data.video import MediaError, VideoRef, frame_files, image_size, probe, read, read_image
from ..data.video import identity as file_identity
from ..data.video.index import Index
from ..data.video.index_store import index_of


@dataclass(frozen=True)
class Reading:
    """How training would choose frames: `video_maxlen`, `video_fps` and `frame_sampling` by those names."""

    maxlen: int = 128
    fps: float = 2.0
    sampling: FrameSampling = "uniform"


@dataclass(frozen=True)
class Job:
    """One medium to look at.

    Attributes:
        source: An image file, or an encoded `VideoRef`.
        is_video: Which of the two.
        reading: Also decode the frames that training reads; None looks at the header only.
        moments: Native frames whose times are asked for, where the frame rate varies.
        indexed: Also hand back the index of a video file.
    """

    source: str
    is_video: bool
    reading: Reading | None = None
    moments: frozenset[int] = frozenset()
    indexed: bool = False

    @property
    def key(self) -> str:
        """What tells one medium, and what is done with it, from another."""
        how = ["video" if self.is_video else "image"]
        if self.reading is not None:
            how += ["decoded", *(map(str, astuple(self.reading)) if self.is_video else ())]

        return f"{','.join(how)}|{self.source}"

    @property
    def files(self) -> list[str]:
        """What the row names: files, or one folder of frame images."""
        ref = VideoRef.parse(self.source) if self.is_video else VideoRef(path=self.source)
        return [ref.path] if ref.frames is None else list(ref.frames)


@dataclass(frozen=True)
class Fault:
    """A medium that cannot be used: `media-missing`, `media-empty` or `media-broken`."""

    kind: str
    message: str


Identity = tuple[int, int]


def identity(job: Job) -> Identity | Fault:
    """Size in bytes and latest change in nanoseconds of a medium (of frame images: the sum, the latest).

    Raises:
        StorageError: Its storage cannot be reached.
    """
    try:
        files = frame_files(VideoRef.parse(job.source)) if job.is_video else None
        files = files or [VideoRef.parse(job.source).path if job.is_video else job.source]
    except MediaError as err:
        return Fault("media-empty", str(err))

    look(files)
    size = latest = 0
    for file in files:
        try:
            changed, length = _state(file)
        except StorageError:
            raise
        except FileNotFoundError as err:
            return Fault("media-missing", f"{file}: {err.strerror or 'no such file'}")
        except (OSError, ValueError) as err:
            return Fault("media-missing", f"{file}: {getattr(err, 'strerror', None) or err}")

        if length == 0:
            return Fault("media-empty", f"{file}: the file is empty")

        # A remote file's state is no time: what any of them changes must change the sum.
        size, latest = size + length, latest ^ changed if is_remote(file) else max(latest, changed)

    return size, latest


def _state(file: str) -> tuple[int, int]:
    """What changes with a file's content, and its bytes."""
    if is_ranged(file):
        return stat(file)

    there = os.stat(file)
    return there.st_mtime_ns, there.st_size


class Found(NamedTuple):
    """A medium without a fault.

    Attributes:
        known: Its size and time of change.
        facts: What it holds.
        entry: What the media index has of it, if that was asked for.
    """

    known: Identity
    facts: Facts
    entry: tuple[tuple, Index] | None


def examine(job: Job) -> Found | Fault:
    """Look at one medium; never raises for what a file can do.

    Raises:
        StorageError: Its storage cannot be reached, which says nothing of the file.
    """
    known = identity(job)
    if isinstance(known, Fault):
        return known

    try:
        facts = _video_facts(job) if job.is_video else _image_facts(job)
        entry = _entry(VideoRef.parse(job.source).path) if job.indexed else None
    except MediaError as err:
        return Fault("media-broken", str(err))
    except StorageError:
        raise
    except Exception as err:  # whatever a decoder raises: one file must not end the check of the others
        return Fault("media-broken", " ".join(f"{job.source}: {type(err).__name__} {err}".split()))

    return Found(known, facts, entry)


def _entry(path: str) -> tuple[tuple, Index]:
    return file_identity(path), index_of(path)


def _video_facts(job: Job) -> Facts:
    ref = VideoRef.parse(job.source)
    # Frame images need some clock to be opened; theirs is the row's.
    info = probe(ref if has_clock(ref) or ref.fps else replace(ref, fps=1.0))
    timeline, reading = info.timeline, job.reading
    if reading is not None:
        options = Preprocessing(video_maxlen=reading.maxlen, video_fps=reading.fps)
        # A clip beyond the end is a row's mistake, not the file's.
        if ref.clip is None or 0 <= ref.clip[0] < min(ref.clip[1], timeline.num_frames):
            plan = plan_video(ref, options, reading.sampling, temporal_patch_size=1)
            read(ref, plan.shown, each=lambda picture: None)

    return Facts.of_video(ref, info.width, info.height, timeline, job.moments)


def _image_facts(job: Job) -> Facts:
    width, height = image_size(job.source)
    if job.reading is not None:
        read_image(job.source)

    return Facts(width, height)
