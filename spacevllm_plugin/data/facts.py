"""What a media file holds, as far as an annotation must fit it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from .storage import is_folder
from .timeline import Timeline
from .video import VideoRef


def has_clock(ref: VideoRef) -> bool:
    """Whether a video is a file, which knows its frame rate; frame images do not."""
    return ref.frames is None and not is_folder(ref.path)


@dataclass(frozen=True)
class Facts:
    """What a medium holds.

    Attributes:
        width: Pixels, as displayed.
        height: Pixels, as displayed.
        num_frames: Native frames; None for an image.
        fps: Native frames per second; None for an image and for frame images, which have no clock of their own.
        seconds: Times of the frames asked for and of the end, where the frame rate varies; else None.
    """

    width: int
    height: int
    num_frames: int | None = None
    fps: float | None = None
    seconds: dict[int, float] | None = None

    @property
    def duration(self) -> float | None:
        """Seconds of the file; None without a clock."""
        if self.seconds is not None:
            return self.seconds[self.num_frames]

        return self.num_frames / self.fps if self.fps else None

    @classmethod
    def of_video(cls, ref: VideoRef, width: int, height: int, timeline: Timeline, moments: Iterable[int]) -> "Facts":
        """What a reader or a plan says of a video.

        Args:
            ref: The video.
            width: Pixels, as displayed.
            height: Pixels, as displayed.
            timeline: The clock of the whole file.
            moments: Native frames whose times are asked for; those outside the file are left out.
        """
        facts = cls(width, height, timeline.num_frames, timeline.fps if has_clock(ref) else None)
        if timeline.timestamps is None:
            return facts

        known = sorted({*facts._inside(moments), timeline.num_frames})
        return replace(facts, seconds={frame: timeline.seconds(frame) for frame in known})

    def know(self, moments: Iterable[int]) -> bool:
        """Whether the times asked for are all here."""
        return self.seconds is None or self._inside(moments) <= self.seconds.keys()

    def _inside(self, moments: Iterable[int]) -> set[int]:
        return {frame for frame in moments if 0 <= frame <= self.num_frames}

    def to_json(self) -> dict[str, Any]:
        """For the memory of finished files; `from_json` reads it."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Facts":
        """The inverse of `to_json`."""
        seconds = data.get("seconds")
        times = None if seconds is None else {int(frame): time for frame, time in seconds.items()}
        return cls(**{**data, "seconds": times})
