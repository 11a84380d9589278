"""What a visitor may send."""

from dataclasses import dataclass


class Refused(ValueError):
    """What a visitor sent cannot be taken; the message is one line for them to read, and names no path of ours."""


@dataclass(frozen=True)
class Limits:
    """What a visitor may send.

    Attributes:
        megabytes: Of one upload.
        seconds: Of one video.
        frames: Of one video.
        megapixels: Of one frame or image.
        gigapixels: Of all frames of a video together: the work that decoding and drawing it is.
    """

    megabytes: float = 200
    seconds: float = 300
    frames: int = 18_000
    megapixels: float = 9
    gigapixels: float = 20

    @property
    def bytes(self) -> int:
        """Bytes of one upload."""
        return round(self.megabytes * 1e6)

    def check_bytes(self, size: int) -> None:
        """Raise `Refused` where a file is too large."""
        if size > self.bytes:
            raise Refused(f"the file has more than {self.megabytes:g} MB")

    def check_size(self, width: int, height: int) -> None:
        """Raise `Refused` where a picture has too many pixels."""
        if width * height > self.megapixels * 1e6:
            raise Refused(f"{width} x {height} pixels are more than {self.megapixels:g} million")

    def check_seconds(self, seconds: float) -> None:
        """Raise `Refused` where a video is too long."""
        if seconds > self.seconds:
            raise Refused(f"the video lasts longer than {self.seconds:g} seconds")

    def check_frames(self, count: int, width: int, height: int) -> None:
        """Raise `Refused` where a video has too many frames, or too many of this size."""
        if count > self.frames:
            raise Refused(f"the video has more than {self.frames} frames")

        if count * width * height > self.gigapixels * 1e9:
            raise Refused(f"the video's frames have more than {self.gigapixels:g} thousand million pixels together")


MOST_SENTENCES = 8
MOST_LETTERS = 500  # of one sentence
MOST_ANNOTATION_BYTES = 10_000_000
