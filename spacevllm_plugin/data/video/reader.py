"""The reader: what a video holds (`probe`), and the pictures of chosen native frames (`read`)."""

from collections.abc import Sequence

from ..timeline import Timeline
from .backends import decode
from .images import frame_files, probe_images, read_image
from .index import index_of
from .source import Frames, MediaError, VideoInfo, VideoRef


def probe(ref: VideoRef) -> VideoInfo:
    """Size and clock of a video, without decoding it (of a video file the first frame, for its rotation flag).

    Raises:
        MediaError: The file is missing, broken, or holds no video.
    """
    files = frame_files(ref)
    return index_of(ref.path).info if files is None else probe_images(files, ref.fps)


def read(ref: VideoRef, frames: Sequence[int]) -> Frames:
    """Decode chosen frames.

    Args:
        ref: The video.
        frames: 0-based native frame numbers of the file (not of the clip) in presentation order; any order, may repeat.

    Returns:
        Upright RGB pictures in the order asked, with their native numbers and times.

    Raises:
        MediaError: The video cannot be opened, or one of the frames cannot be decoded.
        BackendError: `SPACEVLLM_VIDEO_BACKEND` names none that can be used.
    """
    files = frame_files(ref)
    if files is None:
        index = index_of(ref.path)
        timeline = index.info.timeline
    else:
        timeline = Timeline(len(files), ref.fps or 0)

    outside = next((frame for frame in frames if not 0 <= frame < timeline.num_frames), None)
    if outside is not None:
        raise MediaError(f"{ref.path or files[0]}: frame {outside} is not among its {timeline.num_frames} frames")

    wanted = sorted(set(frames))
    images = decode(ref.path, index, wanted) if files is None else {f: read_image(files[f]) for f in wanted}
    seconds = tuple(timeline.seconds(f) for f in frames) if timeline.fps else None
    return Frames(tuple(frames), seconds, tuple(images[f] for f in frames))
