"""The one place where an upload is opened: what it is, and that it keeps to the limits, before much of it is decoded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from ..data.timeline import Timeline
from ..data.video import VideoRef, image_size, probe
from .limits import Limits, Refused


# Containers that hold their data themselves. FFmpeg's other readers follow what a file names: playlists and lists of
# pictures would have it open any path, or any address.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf"
PICTURES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp"}
SUFFIXES = {"mov": ".mp4", "matroska": ".mkv", "mpegts": ".ts", "mpeg": ".mpg", "asf": ".wmv"}
NEITHER = "this is neither a video nor an image that can be read"


@dataclass(frozen=True)
class Medium:
    """An upload that was taken.

    Attributes:
        path: The file, under a name of ours.
        name: What the visitor calls it; only ever shown, and escaped.
        width: Pixels, as displayed.
        height: Pixels, as displayed.
        timeline: The video's clock; None for an image.
        suffix: What files of its kind end in.
    """

    path: Path
    name: str
    width: int
    height: int
    timeline: Timeline | None
    suffix: str

    @property
    def ref(self) -> VideoRef:
        """The video for the reader."""
        return VideoRef(path=str(self.path))

    @property
    def num_frames(self) -> int:
        """Native frames; 1 for an image."""
        return self.timeline.num_frames if self.timeline else 1


def open_medium(path: Path, name: str, limits: Limits) -> Medium:
    """Find out what a file is.

    Args:
        path: The file.
        name: What its owner calls it.
        limits: What it has to keep to.

    Raises:
        Refused: It is no video and no image, or breaks a limit.
    """
    limits.check_bytes(os.path.getsize(path))
    try:
        suffix = _picture_suffix(path)
        if suffix is not None:
            size = image_size(path)
            limits.check_size(*size)
            with Image.open(path, formats=tuple(PICTURES)) as image:
                image.load()

            return Medium(path, name, *size, None, suffix)

        with _opened(path) as (container, stream):
            kind = container.format.name.split(",")[0]
            _examine(container, stream, limits)

        info = probe(VideoRef(path=str(path)))
    except Refused:
        raise
    except Image.DecompressionBombError:
        raise Refused(f"the image has more than {limits.megapixels:g} million pixels") from None
    # FFmpeg's and Pillow's other errors have nothing in common, and their messages name our paths.
    except Exception as err:
        raise Refused(NEITHER) from err

    return Medium(path, name, info.width, info.height, info.timeline, SUFFIXES.get(kind, f".{kind}"))


def _picture_suffix(path: Path) -> str | None:
    try:
        with Image.open(path, formats=tuple(PICTURES)) as image:
            return PICTURES[image.format]
    except Image.UnidentifiedImageError:
        return None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    with av.open(str(path), options=options, metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        if stream is None:
            raise Refused("the file holds no moving picture")

        yield container, stream


def _examine(container: av.container.InputContainer, stream: av.VideoStream, limits: Limits) -> None:
    """Check a video by its header, then by its packets, as headers may lie; only key frames are decoded."""
    context = stream.codec_context
    limits.check_size(context.width, context.height)
    tick = float(stream.time_base or 0)
    limits.check_seconds(max((stream.duration or 0) * tick, (container.duration or 0) / av.time_base))
    limits.check_frames(stream.frames, context.width, context.height)

    context.thread_count = 1
    # A stream may grow at any key frame: the decoder refuses one beyond this before it makes room for it.
    context.options = {"max_pixels": str(round(limits.megapixels * 1e6))}
    count, first, width, height = 0, None, context.width, context.height
    for packet in container.demux(stream):
        if packet.size:
            count += 1
            limits.check_frames(count, width, height)

        if packet.pts is not None:
            first = packet.pts if first is None else min(first, packet.pts)
            limits.check_seconds((packet.pts - first) * tick)

        if packet.is_keyframe or not packet.size:
            for frame in _decoded(packet, limits):
                width, height = max(width, frame.width), max(height, frame.height)
                limits.check_size(width, height)


def _decoded(packet: av.Packet, limits: Limits) -> list[av.VideoFrame]:
    try:
        return packet.decode()
    except av.FFmpegError:
        most = f"{limits.megapixels:g} million pixels"
        raise Refused(f"one of the video's frames cannot be decoded, or has more than {most}") from None
