"""Video reading: what a video holds (`probe`) and the pictures of chosen native frames (`read`)."""

import heapq
import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import dropwhile

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from .timeline import Timeline


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Dataloader workers are the parallelism; the codec's default is a thread per core in each of them.
DECODE_THREADS = 2
# How far a timestamp may lie from a constant rate's, as a part of a frame: containers round to their ticks.
JITTER = 0.25


class MediaError(Exception):
    """A video that cannot be used; the message is one line that names the file and what is wrong."""


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


def probe(ref: VideoRef) -> VideoInfo:
    """Size and clock of a video. Of a video file only the first frame is decoded, see `_index`.

    Raises:
        MediaError: The file is missing, broken, or holds no video.
    """
    files = frame_files(ref)
    if files is None:
        return _index(*_identity(ref.path)).info

    if not ref.fps or ref.fps <= 0:
        raise MediaError(f"{files[0]}: a video given as frame images needs its fps")

    missing = next((file for file in files if not os.path.isfile(file)), None)
    if missing is not None:
        raise MediaError(f"{missing}: no such frame image")

    with _image(files[0]) as image:
        return VideoInfo(image.width, image.height, Timeline(len(files), ref.fps))


def read(ref: VideoRef, frames: Sequence[int]) -> list[Image.Image]:
    """Decode chosen frames.

    Args:
        ref: The video.
        frames: 0-based native frame numbers of the file (not of the clip) in presentation order; any order, may repeat.

    Returns:
        Upright RGB images in the order asked.

    Raises:
        MediaError: The video cannot be opened, or one of the frames cannot be decoded.
    """
    files = frame_files(ref)
    index = _index(*_identity(ref.path)) if files is None else None
    num_frames = len(files) if index is None else index.info.timeline.num_frames
    outside = next((frame for frame in frames if not 0 <= frame < num_frames), None)
    if outside is not None:
        raise MediaError(f"{ref.path or files[0]}: frame {outside} is not among its {num_frames} frames")

    wanted = sorted(set(frames))
    if index is None:
        images = {frame: _read_image(files[frame]) for frame in wanted}
    else:
        images = _read_file(ref.path, index, wanted)

    return [images[frame] for frame in frames]


# Frame images.


def frame_files(ref: VideoRef) -> list[str] | None:
    """The images of a frame list or folder; None for a video file."""
    if ref.frames is not None:
        files, name = list(ref.frames), "frame list"
    elif ref.path is None:
        raise MediaError("a video needs a path or frames")
    elif os.path.isdir(ref.path):
        files, name = [file for file in os.listdir(ref.path) if file.lower().endswith(IMAGE_SUFFIXES)], ref.path
        # Digits compare by value, or unpadded names would put frame 10 before frame 2.
        files.sort(key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", file)])
        files = [os.path.join(ref.path, file) for file in files]
    else:
        return None

    if not files:
        raise MediaError(f"{name}: no frame images")

    return files


@contextmanager
def _image(file: str) -> Iterator[Image.Image]:
    """An opened frame image, of which only the header has been read."""
    try:
        with Image.open(file) as image:
            yield image
    except FileNotFoundError:
        raise MediaError(f"{file}: no such frame image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        raise MediaError(f"{file}: not a readable image ({_one_line(err)})") from None


def _read_image(file: str) -> Image.Image:
    with _image(file) as image:
        return image.convert("RGB")


def _one_line(err: Exception) -> str:
    return " ".join(str(getattr(err, "strerror", None) or err).split())


# Video files, read with PyAV. Times are in ticks of the stream's time base unless called seconds.

# By the counterclockwise degrees that a file asks for.
UPRIGHT = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class _Index:
    """A file's facts, and how frame numbers and timestamps belong together.

    Attributes:
        info: What `probe` answers.
        start: Timestamp of frame 0.
        tick: Seconds per tick.
    """

    info: VideoInfo
    start: int
    tick: Fraction

    def pts(self, frame: int) -> int:
        """Timestamp of a native frame; where the rate is constant, a part of a frame off at most."""
        return self.start + round(self.info.timeline.seconds(frame) / float(self.tick))

    def frame(self, pts: int) -> int:
        """The native frame with a timestamp; negative for one that is decoded but not shown."""
        seconds, timeline = (pts - self.start) * float(self.tick), self.info.timeline
        if timeline.timestamps is None:
            return round(seconds * timeline.fps)

        frame = bisect_left(timeline.timestamps, seconds)
        return frame if seconds in timeline.timestamps[frame : frame + 1] else -1


def _identity(path: str) -> tuple[str, int, int]:
    """What tells one content of a file from another, at the price of a `stat`."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError) as err:
        raise MediaError(f"{path}: {_one_line(err)}") from None

    if stat.st_size == 0:
        raise MediaError(f"{path}: the file is empty")

    return path, stat.st_mtime_ns, stat.st_size


@contextmanager
def _open(path: str, threads: int) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video file and its stream, closed afterwards; the libraries' errors become `MediaError`."""
    try:
        with av.open(path, metadata_errors="ignore") as container:
            stream = container.streams.best("video")
            if stream is None or Disposition.attached_pic in stream.disposition:
                raise MediaError(f"{path}: no video stream")

            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            yield container, stream
    except av.FFmpegError as err:
        raise MediaError(f"{path}: not a readable video ({_one_line(err)})") from None


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets from here on, without those before the first keyframe: they cannot be decoded."""
    return dropwhile(lambda packet: not packet.is_keyframe, container.demux(stream))


@lru_cache(maxsize=16384)
def _index(path: str, mtime_ns: int, size: int) -> _Index:
    """Index a file; cached, as tokenising and collating ask for the same one (the last two arguments only key it).

    The first frame is decoded, because PyAV tells the rotation flag of frames only. The other packets are listed, not
    decoded, and only where the header does not vouch for a constant rate and the number of frames.
    """
    with _open(path, threads=1) as (container, stream):
        rate, tick = stream.average_rate, stream.time_base
        # An edit list that hides frames makes the duration disagree with the number of frames.
        regular = rate and rate == stream.base_rate and stream.frames and stream.duration
        regular = regular and abs(stream.duration * tick * rate - stream.frames) < 0.5
        first, times = None, []
        for packet in _packets(container, stream):
            if packet.pts is not None and not packet.is_discard:
                times.append(packet.pts)

            if first is None:
                first = next(iter(packet.decode()), None)

            if first is not None and regular:
                break

        if first is None:
            raise MediaError(f"{path}: holds no frame that can be decoded")

        if first.pts is None:
            raise MediaError(f"{path}: has no timestamps")

        if regular:
            timeline = Timeline(stream.frames, float(rate))
        else:
            # Packets come in decoding order; what is shown before the first decodable frame is lost.
            times = np.unique([time for time in times if time >= first.pts])
            timeline = _timeline((times - first.pts) * float(tick), rate or stream.guessed_rate)

        sideways = first.rotation % 180 == 90
        width, height = (first.height, first.width) if sideways else (first.width, first.height)
        return _Index(VideoInfo(width, height, timeline), first.pts, tick)


def _timeline(seconds: np.ndarray, rate: Fraction | None) -> Timeline:
    """The clock of frames that start at `seconds`, from 0 on; `rate` is what the container claims."""
    count = len(seconds)
    mean = (count - 1) / float(seconds[-1]) if count > 1 else float(rate or 1)
    for fps in (float(rate or mean), mean):
        if np.abs(seconds * fps - np.arange(count)).max() < JITTER:
            return Timeline(count, fps)

    return Timeline(count, mean, tuple(seconds.tolist()))


def _read_file(path: str, index: _Index, wanted: list[int]) -> dict[int, Image.Image]:
    """Decode native frames (increasing): those that share a keyframe together, from that keyframe on."""
    images = {}
    with _open(path, threads=DECODE_THREADS) as (container, stream):
        groups: dict[int, tuple[int, list[int]]] = {}
        for frame in wanted:
            keyframe, position = _keyframe(container, stream, index, frame)
            groups.setdefault(keyframe, (position, []))[1].append(frame)

        for position, group in groups.values():
            container.seek(position, stream=stream)
            # What a damaged file does not give is named below.
            with suppress(av.FFmpegError):
                for frame, picture in _decode(container, stream, index, group):
                    if frame in group and not picture.is_corrupt:
                        images[frame] = _upright(picture)

                    if frame >= group[-1]:
                        break

            missing = next((frame for frame in group if frame not in images), None)
            if missing is not None:
                raise MediaError(f"{path}: frame {missing} cannot be decoded")

    return images


def _keyframe(
    container: av.container.InputContainer, stream: av.VideoStream, index: _Index, frame: int
) -> tuple[int, int]:
    """The last keyframe that is shown at or before a native frame: its timestamp, and where to seek to meet it next."""
    # Formats that seek by decoding time, which runs ahead of the time shown, need a position before the first frame.
    beginning = index.start - round(10 / stream.time_base)
    # After a seek in an MPEG program stream the times are guesses.
    if container.format.name == "mpeg":
        return index.start, beginning

    shown = index.pts(frame)
    position, step = shown, 1
    while position > beginning:
        container.seek(position, stream=stream)
        packet = next(_packets(container, stream), None)
        if packet is not None and packet.pts is not None:
            # The first alone does not do: a constant rate's `shown` is rounded.
            if packet.pts <= shown or index.frame(packet.pts) == frame:
                return packet.pts, position

        position, step = position - step, step * 2

    return index.start, beginning


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream, index: _Index, wanted: list[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode from here on: native frame numbers and pictures, without some that are not wanted."""
    # AVI has no presentation times: FFmpeg numbers H.264 packets in decoding order. Frames come out in presentation
    # order, so each takes the earliest number that is left.
    h26x = stream.codec_context.name in ("h264", "hevc")
    reorder = h26x and container.format.name == "avi"
    times: list[int] = []
    for packet in _packets(container, stream):
        if packet.pts is not None:
            heapq.heappush(times, packet.pts)
            if h26x and not reorder:
                # Frames that no other refers to are decoded only if wanted; with B-frames that halves the work.
                needed = index.frame(packet.pts) in wanted
                stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"

        for picture in packet.decode():
            pts = heapq.heappop(times) if reorder else picture.pts
            if pts is not None:
                yield index.frame(pts), picture


def _upright(picture: av.VideoFrame) -> Image.Image:
    image, degrees = picture.to_image(), picture.rotation % 360
    return image.transpose(UPRIGHT[degrees]) if degrees in UPRIGHT else image
