"""What a model sees of one video or image, decided without decoding: frames, times, sizes."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from .timeline import Timeline, group_frames, middle_frame, sample_frames
from .video import MediaError, Shelf, VideoRef, probe, require


@dataclass(frozen=True)
class Preprocessing:
    """LLaMA-Factory's own media options, by its own names; they travel with every checkpoint and adapter.

    Attributes:
        image_max_pixels: Most pixels of an image after resizing.
        image_min_pixels: Least pixels of an image after resizing.
        video_max_pixels: Most pixels of a frame after resizing.
        video_min_pixels: Least pixels of a frame after resizing.
        video_fps: Frames a second, for `frame_sampling: fps` and as the clock of frame lists.
        video_maxlen: Most frames of a video.
    """

    image_max_pixels: int = 768 * 768
    image_min_pixels: int = 32 * 32
    video_max_pixels: int = 256 * 256
    video_min_pixels: int = 16 * 16
    video_fps: float = 2.0
    video_maxlen: int = 128

    @classmethod
    def names(cls) -> list[str]:
        """Names of the options."""
        return [f.name for f in fields(cls)]


@dataclass(frozen=True)
class VideoPlan:
    """A video as a model sees it.

    Attributes:
        ref: The video.
        width: Pixels of a displayed frame.
        height: Pixels of a displayed frame.
        timeline: The file's clock.
        clip: Half-open range of native frames that is looked at.
        groups: Native frames behind each query (several where the backbone has temporal patches).
        frames: The native frame each query's box belongs to.
        seconds: Each query's time: the mean of its frames' times.
    """

    ref: VideoRef
    width: int
    height: int
    timeline: Timeline
    clip: tuple[int, int]
    groups: list[list[int]]
    frames: list[int] = field(init=False)
    seconds: list[float] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", [middle_frame(group) for group in self.groups])
        seconds = [sum(self.timeline.seconds(frame) for frame in group) / len(group) for group in self.groups]
        object.__setattr__(self, "seconds", seconds)

    @property
    def name(self) -> str:
        """For messages."""
        return self.ref.path or self.ref.frames[0]

    @property
    def shown(self) -> list[int]:
        """Native frames that the model gets, in order; the last repeats where a group has to be filled."""
        return [frame for group in self.groups for frame in group]

    @property
    def duration(self) -> float:
        """Seconds of the clip."""
        return self.timeline.seconds(self.clip[1]) - self.timeline.seconds(self.clip[0])


def plan_video(
    source: Any, options: Preprocessing, sampling: str, temporal_patch_size: int, indexes: Shelf | None = None
) -> VideoPlan:
    """Plan a video.

    Args:
        source: A path, a list of frame files, or an encoded `VideoRef`.
        options: Pixel and frame limits.
        sampling: `uniform` or `fps`, see `sample_frames`.
        temporal_patch_size: Frames that the backbone merges into one.
        indexes: Where the indexes of video files are kept, if at all.

    Raises:
        MediaError: The video cannot be opened, its clip holds no frame, or the file ends before the last frame wanted.
    """
    ref = VideoRef.parse(source)
    ref = replace(ref, fps=ref.fps or options.video_fps)
    info = probe(ref, indexes)
    first, last = ref.clip if ref.clip is not None else (0, info.timeline.num_frames)
    last = min(last, info.timeline.num_frames)
    if not 0 <= first < last:
        raise MediaError(f"{ref.encode()}: clip {list(ref.clip)} holds none of its {info.timeline.num_frames} frames")

    frames = sample_frames((first, last), info.timeline, sampling, options.video_maxlen, options.video_fps)
    require(ref, frames[-1])
    groups = group_frames(frames, temporal_patch_size)
    return VideoPlan(ref, info.width, info.height, info.timeline, (first, last), groups)
