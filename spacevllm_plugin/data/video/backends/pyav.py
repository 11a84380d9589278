"""PyAV: the reference, and the fastest, because it decodes the fewest frames.

It starts at the keyframe before a wanted frame, passes over groups of pictures without one, leaves out frames that no
other needs, and ends at the last packet that a wanted frame needs.
"""

import heapq
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import av
from PIL import Image

from ..index import Index, open_video, packets_from_keyframe
from ..source import MediaError
from .keep import Keep


# By the counterclockwise degrees that a file asks for.
UPRIGHT = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


# A keyframe's timestamp, where to seek to meet it next, and the wanted frames that are decoded from it on.
Group = tuple[int, int, list[int]]


def decode(path: str, index: Index, wanted: list[int], threads: int, keep: Keep) -> None:
    """See the package."""
    with open_video(path, threads) as (container, stream):
        decoder = _Decoder(container, stream, index, keep)
        groups = decoder.groups(wanted)
        count = min(threads, len(groups))
        if count == 1:
            decoder.decode(groups)
            return

    # A decoder that is sent from group to group has no use for a second thread; a second decoder has.
    def decode_part(part: int) -> None:
        own = groups[len(groups) * part // count : len(groups) * (part + 1) // count]
        with open_video(path, threads // count) as (container, stream):
            _Decoder(container, stream, index, keep).decode(own)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(decode_part, range(count)))


class _Decoder:
    """One opened file.

    Attributes:
        to_the_end: Feed packets until the last wanted frame comes out, not only until its own packet has gone in.
    """

    def __init__(
        self, container: av.container.InputContainer, stream: av.VideoStream, index: Index, keep: Keep
    ) -> None:
        self.container, self.stream, self.index, self.keep = container, stream, index, keep
        self.h26x = stream.codec_context.name in ("h264", "hevc")
        # AVI has no presentation times: FFmpeg numbers H.264 packets in decoding order. Frames come out in presentation
        # order, so each takes the earliest number that is left.
        self.reorder = self.h26x and container.format.name == "avi"
        self.to_the_end = self.reorder

    def decode(self, groups: list[Group]) -> None:
        """Hand on all wanted frames of the groups; raises `MediaError` for one that does not come out."""
        while groups:
            asked, done = self.run(groups)
            missing = [frame for frame in asked if frame not in done]
            if missing and not self.to_the_end:
                # A frame in two packets (fields) is not complete with the first; nobody says so beforehand.
                self.to_the_end = True
                groups = self.groups(missing) + groups
            elif missing:
                raise MediaError(f"{self.container.name}: frame {missing[0]} cannot be decoded")

    def groups(self, wanted: list[int]) -> list[Group]:
        """Wanted frames (increasing) by the keyframe that they are decoded from."""
        groups: dict[int, Group] = {}
        for frame in wanted:
            keyframe, position = self._keyframe(frame)
            groups.setdefault(keyframe, (keyframe, position, []))[2].append(frame)

        return list(groups.values())

    def _keyframe(self, frame: int) -> tuple[int, int]:
        """The last keyframe that is shown at or before a native frame: its timestamp, and where to seek."""
        # Formats that seek by decoding time, which runs ahead of the time shown, need a position before the first.
        beginning = self.index.start - round(10 / self.stream.time_base)
        # After a seek in an MPEG program stream the times are guesses.
        if self.container.format.name == "mpeg":
            return self.index.start, beginning

        shown = self.index.pts(frame)
        position, step = shown, 1
        while position > beginning:
            self.container.seek(position, stream=self.stream)
            packet = next(packets_from_keyframe(self.container, self.stream), None)
            if packet is not None and packet.pts is not None:
                # The first alone does not do: a constant rate's `shown` is rounded.
                if packet.pts <= shown or self.index.frame(packet.pts) == frame:
                    return packet.pts, position

            position, step = position - step, step * 2

        return self.index.start, beginning

    def run(self, groups: list[Group]) -> tuple[list[int], set[int]]:
        """Decode the first group, and those behind it that are reached on the way.

        Args:
            groups: What is to be decoded; those that were are taken away.

        Returns:
            The frames asked for, and those of them that came out whole.
        """
        _, position, asked = groups.pop(0)
        asked, done = list(asked), set()
        self.container.seek(position, stream=self.stream)
        # What a damaged file does not give is named by the caller.
        with suppress(av.FFmpegError):
            for frame, picture in self._frames(groups, asked):
                if frame in asked and not picture.is_corrupt:
                    self.keep(frame, _upright(picture))
                    done.add(frame)

                if self.to_the_end and frame >= asked[-1]:
                    break

        return asked, done

    def _frames(self, groups: list[Group], asked: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from here on: native frame numbers and pictures, without some that are not wanted."""
        context, times, waiting = self.stream.codec_context, [], set(asked)
        for packet in packets_from_keyframe(self.container, self.stream):
            if groups and packet.is_keyframe and packet.pts == groups[0][0]:
                # Frames before this keyframe may refer to it (an open group), so it may have to be decoded by now.
                further = groups.pop(0)[2]
                asked += further
                waiting.update(further)
            elif not waiting and not self.to_the_end:
                break

            if packet.pts is not None:
                frame = self.index.frame(packet.pts)
                if self.reorder:
                    heapq.heappush(times, packet.pts)
                elif self.h26x:
                    # Frames that no other refers to are decoded only if wanted; with B-frames that halves the work.
                    context.skip_frame = "DEFAULT" if frame in waiting else "NONREF"

                waiting.discard(frame)

            for picture in packet.decode():
                pts = heapq.heappop(times) if self.reorder else picture.pts
                if pts is not None:
                    yield self.index.frame(pts), picture
        else:
            return

        for picture in context.decode(None):
            if picture.pts is not None:
                yield self.index.frame(picture.pts), picture


def _upright(picture: av.VideoFrame) -> Image.Image:
    # PyAV's own `to_image` copies each row once more; the pixels are the same.
    plane = picture.reformat(format="rgb24").planes[0]
    size = (picture.width, picture.height)
    image = Image.frombuffer("RGB", size, memoryview(plane), "raw", "RGB", plane.line_size, 1)
    degrees = picture.rotation % 360
    return image.transpose(UPRIGHT[degrees]) if degrees in UPRIGHT else image
