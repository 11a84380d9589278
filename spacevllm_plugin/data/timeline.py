"""Time arithmetic: native frames, seconds, and which frames a model sees. The only place that converts them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


FrameSampling = Literal["uniform", "fps"]


@dataclass(frozen=True, eq=False)
class Timeline:
    """The clock of one video file (or list of frames).

    Attributes:
        num_frames: Native frames of the file.
        fps: Mean native frames per second.
        timestamps: Start of each native frame in seconds, for files whose frame rate varies; None for a constant
            rate, where frame `i` starts at `i / fps`. (num_frames,) float64.
    """

    num_frames: int
    fps: float
    timestamps: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.timestamps is not None:
            object.__setattr__(self, "timestamps", np.array(self.timestamps, dtype=np.float64))
            self.timestamps.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timeline):
            return NotImplemented

        same = (self.num_frames, self.fps) == (other.num_frames, other.fps)
        return same and np.array_equal(self.timestamps, other.timestamps)

    def seconds(self, frame: int) -> float:
        """Where native frame `frame` starts; `num_frames` gives the end of the video."""
        if self.timestamps is None:
            return frame / self.fps

        if frame < len(self.timestamps):
            return float(self.timestamps[frame])

        return float(self.timestamps[-1]) + (frame - len(self.timestamps) + 1) / self.fps

    def frame_at(self, seconds: float) -> int:
        """The frame boundary nearest to a moment, in 0..num_frames."""
        if self.timestamps is None:
            frame = round(min(max(seconds * self.fps, 0), self.num_frames))  # a model may write any number
        else:
            edges = np.append(self.timestamps, self.seconds(self.num_frames))
            frame = int(np.abs(edges - seconds).argmin())

        return min(max(frame, 0), self.num_frames)

    def span_seconds(self, span_frames: tuple[int, int]) -> tuple[float, float]:
        """Seconds of a half-open range of native frames."""
        return self.seconds(span_frames[0]), self.seconds(span_frames[1])

    def span_frames(self, span_seconds: tuple[float, float], clip: tuple[int, int] | None = None) -> tuple[int, int]:
        """Half-open range of native frames nearest to a span in seconds, cut to the clip, at least one frame long."""
        first, last = clip if clip is not None else (0, self.num_frames)
        start = min(max(self.frame_at(span_seconds[0]), first), last - 1)
        end = min(max(self.frame_at(span_seconds[1]), start + 1), last)
        return start, end


def sample_frames(
    clip: tuple[int, int], timeline: Timeline, sampling: FrameSampling, max_frames: int, fps: float
) -> list[int]:
    """Native frames that a model sees; they always cover the whole clip.

    Args:
        clip: Half-open range of native frames.
        timeline: The file's clock.
        sampling: `uniform` takes `max_frames` frames (all, if the clip is shorter); `fps` takes `fps` frames a second,
            thinned evenly to `max_frames` where that would be more.
        max_frames: Most frames taken.
        fps: Frames a second for `fps`.

    Returns:
        Increasing 0-based native frames of the file: the first and the last of the clip are among them, unless only
        one frame is taken (then the middle one).
    """
    start, end = clip
    length = end - start
    if length <= 0:
        raise ValueError(f"the clip {list(clip)} holds no frame")

    count = max_frames
    if sampling == "fps":
        duration = timeline.seconds(end) - timeline.seconds(start)
        count = min(count, max(1, round(duration * fps)))

    count = min(count, length)
    if count == 1:
        return [start + (length - 1) // 2]

    return [start + round(i * (length - 1) / (count - 1)) for i in range(count)]


def sampled_span(frames: list[int], first: int, last: int, clip: tuple[int, int] | None = None) -> tuple[int, int]:
    """The native frames that a run of sampled frames stands for: cut midway between the run and its neighbours.

    Never `frames[first] .. frames[last] + 1`, which loses half a sampling step on either side.

    Args:
        frames: Increasing native frames that were sampled.
        first: Index of the run's first sampled frame.
        last: Index of its last (inclusive).
        clip: Half-open range of native frames; a run that holds the first or the last sampled frame reaches its end.
            From the first to behind the last sampled frame where None.

    Returns:
        Half-open range of native frames.
    """
    clip_start, clip_end = clip if clip is not None else (frames[0], frames[-1] + 1)
    start = clip_start if first == 0 else (frames[first - 1] + frames[first] + 1) // 2
    end = clip_end if last == len(frames) - 1 else (frames[last] + frames[last + 1] + 1) // 2
    return start, end


def group_frames(frames: list[int], size: int) -> list[list[int]]:
    """Frames in groups of `size`, as backbones with temporal patches see them; the last frame is repeated to fill."""
    padded = frames + [frames[-1]] * (-len(frames) % size)
    return [padded[i : i + size] for i in range(0, len(padded), size)]


def middle_frame(group: list[int]) -> int:
    """The native frame at the mean of a group, rounded down: the one its query's box belongs to."""
    return sum(group) // len(group)
