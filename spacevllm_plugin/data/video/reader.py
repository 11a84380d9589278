"""The reader: what a video holds (`probe`), and the pictures of chosen native frames (`read`)."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from ..storage import absolute
from ..timeline import Timeline
from .backends import decode
from .images import frame_files, probe_images
from .index import identity, require_frame
from .index_store import Shelf, index_of
from .picture import read_image
from .remote import fetched_ahead
from .source import Frames, MediaError, VideoInfo, VideoRef, media_errors


def probe(ref: VideoRef, indexes: Shelf | None = None) -> VideoInfo:
    """Size and clock of a video, without decoding it (of a video file the first frame, for its rotation flag).

    Args:
        ref: The video.
        indexes: Where the indexes of video files are kept, if at all.

    Raises:
        MediaError: The file is missing, broken, or holds no video.
    """
    files = frame_files(ref)
    return index_of(ref.path, indexes).info if files is None else probe_images(files, ref.fps)


def require(ref: VideoRef, frame: int) -> None:
    """Make sure that a file goes on up to a native frame, as half a download does not; decodes nothing.

    Raises:
        MediaError: It ends before that.
    """
    if frame_files(ref) is None:
        require_frame(ref.path, index_of(ref.path), frame)


def content_key(ref: VideoRef, frames: Sequence[int]) -> tuple:
    """What tells chosen frames from any others, and from themselves after their files were changed; decodes nothing.

    Raises:
        MediaError: A file is missing or empty.
    """
    files = frame_files(ref)
    names = [ref.path] if files is None else [files[frame] for frame in frames]
    return tuple((absolute(path), *rest) for path, *rest in map(identity, names)), tuple(frames)


def read(ref: VideoRef, frames: Sequence[int], each: Callable[[Image.Image], Any] = lambda picture: picture) -> Frames:
    """Decode chosen frames.

    Args:
        ref: The video.
        frames: 0-based native frame numbers of the file (not of the clip) in presentation order; any order, may repeat.
        each: What is kept of an upright RGB picture; called once it is decoded, perhaps from several threads at once. Only
            one picture for each decoding thread is in memory at a time, beside those that this keeps.

    Returns:
        The pictures, or what `each` made of them, in the order asked, with their native numbers and times.

    Raises:
        MediaError: The video cannot be opened, or one of the frames cannot be decoded.
        StorageError: It is remote, and its storage cannot be reached.
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

    kept: dict[int, Any] = {}

    def keep(frame: int, picture: Image.Image) -> None:
        kept[frame] = each(picture)

    wanted = sorted(set(frames))
    with media_errors(ref.path or files[0], "not a readable video"):
        if files is None:
            with fetched_ahead(ref.path, wanted):
                decode(ref.path, index, wanted, keep)
        else:
            for frame in wanted:
                keep(frame, read_image(files[frame]))

    seconds = tuple(timeline.seconds(f) for f in frames) if timeline.fps else None
    return Frames(tuple(frames), seconds, tuple(kept[f] for f in frames))
