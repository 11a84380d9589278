"""Videos given as pictures: a list of frame images, or a folder of them."""

import os
import re
from collections.abc import Iterable
from functools import lru_cache

from ..members import containing_file
from ..storage import is_folder, is_remote, listing
from ..timeline import Timeline
from .picture import image_size
from .source import MediaError, VideoInfo, VideoRef, media_errors


DIGITS = re.compile(r"([0-9]+)")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def frame_files(ref: VideoRef) -> list[str] | None:
    """The images of a frame list or folder; None for a video file."""
    if ref.frames is not None:
        files, name = list(ref.frames), "frame list"
    elif ref.path is None:
        raise MediaError("a video needs a path or frames")
    elif is_remote(ref.path):
        if not is_folder(ref.path):
            return None

        files, name = list(listed_remote(ref.path)), ref.path
    elif os.path.isdir(ref.path):
        names = listed(ref.path, os.stat(ref.path).st_mtime_ns)
        files, name = [os.path.join(ref.path, file) for file in names], ref.path
    else:
        return None

    if not files:
        raise MediaError(f"{name}: no frame images")

    return files


@lru_cache(maxsize=1024)
def listed(folder: str, changed: int) -> tuple[str, ...]:
    """Names of the images in a folder, in order; listed once as long as it does not change (which `changed` tells)."""
    return tuple(_images(os.listdir(folder)))


@lru_cache(maxsize=1024)
def listed_remote(folder: str) -> list[str]:
    """Addresses of the images in a remote folder, in order; listed once."""
    with media_errors(folder, "no such folder"):
        return _images(listing(folder))


def _images(names: Iterable[str]) -> list[str]:
    files = [file for file in names if file.lower().endswith(IMAGE_SUFFIXES)]
    # Digits compare by value, or unpadded names would put frame 10 before frame 2.
    return sorted(files, key=lambda file: [int(part) if part.isdigit() else part for part in DIGITS.split(file)])


def probe_images(files: list[str], fps: float | None) -> VideoInfo:
    """Size of the first image as displayed (from its header), and a clock that ticks `fps` times a second."""
    if not fps or fps <= 0:
        raise MediaError(f"{files[0]}: a video given as frame images needs its fps")

    # Remote ones are not asked for one by one.
    missing = next((file for file in files if not (is_remote(file) or os.path.isfile(containing_file(file)))), None)
    if missing is not None:
        raise MediaError(f"{missing}: no such image")

    return VideoInfo(*image_size(files[0]), Timeline(len(files), fps))
