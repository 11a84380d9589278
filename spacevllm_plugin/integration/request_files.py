"""Videos that came in a request, or lie at a URL it names, as the files that the reader takes; up to a limit."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from urllib3.exceptions import HTTPError

from ..data.video import MediaError


VARIABLE = "SPACEVLLM_API_MAX_VIDEO_MB"
DEFAULT_MB = 512
CHUNK = 1 << 20


def most_bytes() -> int:
    """Bytes that the videos of one request may have, all together.

    Raises:
        ValueError: `SPACEVLLM_API_MAX_VIDEO_MB` is not a positive number.
    """
    given = os.environ.get(VARIABLE) or str(DEFAULT_MB)
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"{VARIABLE}={given}: not a number of megabytes")

    return int(given) * 10**6


@contextmanager
def as_files(videos: list[Any] | None) -> Iterator[list[Any] | None]:
    """Videos as the reader takes them: the API hands over one that came in the request, or from a URL, as a stream.

    Raises:
        MediaError: A stream breaks off, or they have more than `most_bytes`.
    """
    if not any(hasattr(video, "read") for video in videos or []):
        yield videos
        return

    with TemporaryDirectory(prefix="spacevllm_") as folder:
        sources, left = list(videos), most_bytes()
        for number, video in enumerate(videos):
            if hasattr(video, "read"):
                sources[number] = str(Path(folder, f"video_{number}_of_the_request"))
                with closing(video), open(sources[number], "wb") as file:
                    left = _copy(video, file, left)

        try:
            yield sources
        except MediaError as err:
            # Where the server keeps them is nothing to the client, nor to anyone once they are gone.
            raise MediaError(str(err).replace(folder + os.sep, "")) from None


def _copy(video: Any, file: BinaryIO, most: int) -> int:
    """Copy a stream; returns how many bytes fewer than `most` it had."""
    while chunk := _read(video, Path(file.name).name):
        most -= len(chunk)
        if most < 0:
            # Not read to its end, which may never come.
            raise MediaError(f"the videos of the request have more than {most_bytes() // 10**6} MB")

        file.write(chunk)

    return most


def _read(video: Any, name: str) -> bytes:
    try:
        return video.read(CHUNK)
    except (OSError, HTTPError) as err:
        raise MediaError(f"{name}: not received whole ({err})") from None
