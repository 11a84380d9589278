"""Where a row's media lie, on the disk and in its prompt, and whether they have changed."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from .members import containing_file
from .schema import MEDIA_TAG, AnnotationRow
from .storage import is_folder, is_remote, join, look
from .video import MediaError, VideoRef, frame_files, identity


STATS_AT_ONCE = 16  # on a network's file system each takes its time


def locate(path: str, folders: list[str]) -> str:
    """A media path: in the first of the folders that has it, or else as it is.

    An address is taken at its word, and so is a remote folder: to look at each file there would take a request a row.
    """
    candidates = (join(folder, path) for folder in folders)
    return next((there for there in candidates if is_remote(there) or os.path.exists(containing_file(there))), path)


def video_source(row: AnnotationRow, index: int, folders: list[str]) -> str:
    """One of a row's videos as the string that travels through LLaMA-Factory; the first one has the row's clip."""
    video = row.videos[index]
    media = row.media if index == 0 else None
    clip = media.clip if media and media.clip != (0, media.num_frames) else None
    fps = media.fps if media else None
    if not isinstance(video, str):
        return VideoRef(frames=tuple(locate(frame, folders) for frame in video), clip=clip, fps=fps).encode()

    path = locate(video, folders)
    return VideoRef(path=path, clip=clip, fps=fps if is_folder(path) else None).encode()


def in_order(messages: Iterable[dict[str, str]], images: Iterable[Any], videos: Iterable[Any]) -> list[Any]:
    """Something for each image and each video, in the order in which their tags appear in the messages."""
    by_tag = {"<image>": iter(images), "<video>": iter(videos)}
    tags = MEDIA_TAG.findall("".join(message["content"] for message in messages))
    return [next(by_tag[tag]) for tag in tags]


def media_digest(images: Iterable[str], videos: Iterable[str]) -> str:
    """A digest of the paths, times of change and sizes of media, and of what is missing; nothing is opened.

    Args:
        images: Paths.
        videos: Paths or encoded `VideoRef`s; clips of one video are one medium.
    """
    refs = {VideoRef(frames=(image,)) for image in images}
    refs |= {replace(VideoRef.parse(video), clip=None, fps=None) for video in videos}
    ordered = sorted(refs, key=VideoRef.encode)
    look(file for ref in ordered for file in ref.frames or [ref.path])
    shares = [ordered[start::STATS_AT_ONCE] for start in range(STATS_AT_ONCE)]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(STATS_AT_ONCE) as pool:
        for states in pool.map(lambda share: [_state(ref) for ref in share], shares):
            digest.update(repr(states).encode())

    return digest.hexdigest()


def _state(ref: VideoRef) -> list[tuple[str, int, int]] | str:
    try:
        return [identity(file) for file in frame_files(ref) or [ref.path]]
    except MediaError as err:
        return str(err)
