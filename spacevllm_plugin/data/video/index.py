"""What is known of a video file without decoding it: size, clock, and which timestamp each native frame has.

PyAV finds it out for every backend, so that a native frame's number means the same picture whichever one decodes it.
Times are in ticks of the stream's time base unless called seconds.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace

from ..storage import StorageError, is_ranged
from ..storage import stat as remote_stat
from ..timeline import Timeline
from .remote import open_remote, shown_times
from .source import MediaError, VideoInfo, media_errors, one_line


# How far a timestamp may lie from a constant rate's, as a part of a frame: containers round to their ticks.
JITTER = 0.25
# FFmpeg's number for it; PyAV has no name.
COLORSPACE_UNSPECIFIED = 2


@dataclass(frozen=True)
class Index:
    """A file's facts, and how frame numbers and timestamps belong together.

    Attributes:
        info: What `probe` answers.
        start: Timestamp of frame 0.
        tick: Seconds per tick.
        whole: The data of all frames are in the file; not so after half a download of a file whose header comes first.
        portable: Every decoder numbers and colours the frames alike. Not so where the container has no presentation
            times, or the file names another colour matrix than BT.601: PyAV and so LLaMA-Factory convert with that one
            in any case, others with the file's.
    """

    info: VideoInfo
    start: int
    tick: Fraction
    whole: bool
    portable: bool

    def pts(self, frame: int) -> int:
        """Timestamp of a native frame; where the rate is constant, a part of a frame off at most."""
        return self.start + round(self.info.timeline.seconds(frame) / float(self.tick))

    def frame(self, pts: int) -> int:
        """The native frame with a timestamp; negative for one that is decoded but not shown."""
        seconds, timeline = (pts - self.start) * float(self.tick), self.info.timeline
        if timeline.timestamps is None:
            return round(seconds * timeline.fps)

        frame = int(timeline.timestamps.searchsorted(seconds))
        return frame if seconds in timeline.timestamps[frame : frame + 1] else -1

    def file_seconds(self, frames: list[int]) -> np.ndarray:
        """When native frames start by the file's own clock, which need not start at 0; see `pts` for how near."""
        return np.array([self.pts(frame) * float(self.tick) for frame in frames])


Identity = tuple[str, int, int]


def identity(path: str) -> Identity:
    """What tells one content of a file from another, at the price of a `stat`: path, time of change (ns), bytes.

    Of a remote file, whose state is remembered, the second is any number that changes with its content.

    Raises:
        MediaError: There is none, or it is empty.
        StorageError: Its storage cannot be reached.
    """
    try:
        if is_ranged(path):
            changed, size = remote_stat(path)
        else:
            stat = os.stat(path)
            changed, size = stat.st_mtime_ns, stat.st_size
    except StorageError:
        raise
    except FileNotFoundError as err:
        raise MediaError(f"{path}: {'no such file' if is_ranged(path) else one_line(err)}") from None
    except (OSError, ValueError) as err:
        raise MediaError(f"{path}: {one_line(err)}") from None

    if size == 0:
        raise MediaError(f"{path}: the file is empty")

    return path, changed, size


def require_frame(path: str, index: Index, frame: int) -> None:
    """Raise `MediaError` where a file ends before the data of a native frame; decodes nothing."""
    if index.whole:
        return

    with open_video(path, threads=1) as (container, stream):
        container.seek(index.pts(frame), stream=stream)
        # Those in front of it in decoding order lie in front of it in the file.
        times = (packet.pts for packet in container.demux(stream) if _complete(packet) and packet.pts is not None)
        if not any(index.frame(pts) == frame for pts in times):
            count = index.info.timeline.num_frames
            raise MediaError(f"{path}: the file ends before frame {frame}; its header promises {count} frames")


def _complete(packet: av.Packet) -> bool:
    """Whether a packet's bytes are all there."""
    return packet.size > 0 and not packet.is_corrupt


def _reaches(container: av.container.InputContainer, stream: av.VideoStream, pts: int) -> bool:
    """Whether the data of a frame are in the file, by the packet that decoding has reached by then."""
    with suppress(av.FFmpegError):
        container.seek(pts, stream=stream, any_frame=True)
        return _complete(next(container.demux(stream)))

    return False


@contextmanager
def open_video(path: str, threads: int) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video file and its stream, closed afterwards; what goes wrong with it becomes a `MediaError`."""
    with (
        media_errors(path, "not a readable video"),
        open_remote(path) if is_ranged(path) else nullcontext(path) as file,
        av.open(file, metadata_errors="ignore") as container,
    ):
        stream = container.streams.best("video")
        if stream is None or Disposition.attached_pic in stream.disposition:
            raise MediaError(f"{path}: no video stream")

        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        yield container, stream


def packets_from_keyframe(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets from here on, without those before the first keyframe: they cannot be decoded."""
    return dropwhile(lambda packet: not packet.is_keyframe, container.demux(stream))


def make_index(path: str) -> Index:
    """Index a file; raises `MediaError`.

    The first frame is decoded, because PyAV tells the rotation flag of frames only. The other packets are listed, not
    decoded, and only where the header does not vouch for a constant rate and the number of frames.
    """
    with open_video(path, threads=1) as (container, stream):
        rate, tick = stream.average_rate, stream.time_base
        # An edit list that hides frames makes the duration disagree with the number of frames.
        regular = rate and rate == stream.base_rate and stream.frames and stream.duration
        regular = regular and abs(stream.duration * tick * rate - stream.frames) < 0.5
        first, times, listed = None, [], None
        for packet in packets_from_keyframe(container, stream):
            if packet.pts is not None and _complete(packet) and not packet.is_discard:
                times.append(packet.pts)

            if first is None:
                first = next(iter(packet.decode()), None)
                if first is not None and not regular and is_ranged(path):
                    listed = _listed_times(path, stream)

            if first is not None and (regular or listed is not None):
                break

        if first is None:
            raise MediaError(f"{path}: holds no frame that can be decoded")

        if first.pts is None:
            raise MediaError(f"{path}: has no timestamps")

        if regular:
            timeline = Timeline(stream.frames, float(rate))
        else:
            if listed is not None:
                times = listed - listed[0] + first.pts

            # Packets come in decoding order; what is shown before the first decodable frame is lost.
            times = np.unique([time for time in times if time >= first.pts])
            timeline = _timeline((times - first.pts) * float(tick), rate or stream.guessed_rate)

        sideways = first.rotation % 180 == 90
        width, height = (first.height, first.width) if sideways else (first.width, first.height)
        portable = first.colorspace in (COLORSPACE_UNSPECIFIED, Colorspace.ITU601, Colorspace.SMPTE170M)
        portable = portable and container.format.name not in ("avi", "mpeg")
        end = first.pts + round((timeline.num_frames - 1) / timeline.fps / tick) if regular else None
        whole = end is None or _reaches(container, stream, end)
        return Index(VideoInfo(width, height, timeline), first.pts, tick, whole, portable)


def _listed_times(path: str, stream: av.VideoStream) -> np.ndarray | None:
    """When the frames of a remote file are shown, from its own table: it need not be read to its end, as a local one is.

    None where the table is not the whole truth: an edit list may end before the last frame.
    """
    times = shown_times(path)
    return times if times is not None and stream.duration and times[-1] - times[0] < stream.duration else None


def _timeline(seconds: np.ndarray, rate: Fraction | None) -> Timeline:
    """The clock of frames that start at `seconds`, from 0 on; `rate` is what the container claims."""
    count = len(seconds)
    mean = (count - 1) / float(seconds[-1]) if count > 1 else float(rate or 1)
    for fps in (float(rate or mean), mean):
        if np.abs(seconds * fps - np.arange(count)).max() < JITTER:
            return Timeline(count, fps)

    return Timeline(count, mean, seconds)
