"""What a user has put right, as one more annotation row to learn from."""

import json
import math
import os
import secrets
from codecs import BOM_UTF8
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic_core import from_json

from . import prompts
from .facts import Facts
from .jsonl import append_lines
from .output import OutputError, appended, destination, replaced
from .rules import first_error
from .schema import PIXEL_DECIMALS, SECOND_DECIMALS, VISUAL_TAGS, AnnotationRow, RowError, dump_row, parse_row
from .tube import interpolate_boxes
from .video import MediaError, VideoRef, image_size, probe


GROUP = "corrections"
INFO_NAME = "dataset_info.json"

Box = tuple[float, float, float, float]


def append_correction(
    file: Path,
    media: Path,
    query: str,
    span: tuple[float, float] | None,
    keyframes: dict[int, Box],
    answer: str | None = None,
) -> AnnotationRow:
    """Append a row to a file that `check` accepts and training takes, and see to its entry in dataset_info.json beside it.

    With a span and boxes it is a `stvg` row, with a span alone `vtg`, with a box alone `rec` (an image). With neither it
    says that the thing is not there: a row of `qa`, since what is not there has no target. Several processes and threads
    may append to one file at once.

    Args:
        file: Annotation rows (JSONL), there or not.
        media: The video or the image; written relative to the file's folder where it lies in there, else absolute.
        query: The sentence.
        span: Start and end in seconds of the video's own clock; None for an image, and for what is not there.
        keyframes: Boxes in xyxy pixels as displayed, by native frame of the video, `{0: box}` for an image; linear in
            between. They are cut to the picture; those outside the span count for its edges only.
        answer: What the model should say; None takes the first phrase of `data.prompts`.

    Returns:
        The row, as it stands in the file.

    Raises:
        MediaError: The medium cannot be read.
        RowError: No row can be made of this; nothing is written then.
        OutputError: The file cannot be written, or dataset_info.json cannot have an entry for it.
    """
    row = _make_row(file, media, query, span, keyframes, answer)
    if destination(file) is None:
        raise OutputError(f"{file} is no regular file, which it has to be")

    info_file = file.with_name(INFO_NAME)
    file.parent.mkdir(parents=True, exist_ok=True)
    # The lock of everybody who adds entries here (`converters.writer`).
    with FileLock(info_file.with_name(f".{INFO_NAME}.lock")):
        info = _with_entry(info_file, file)
        with appended(file) as out:
            append_lines(out, [*_line_end(file), dump_row(row)])

        if info is not None:
            with replaced(info_file) as out:
                out.write(json.dumps(info, indent=2, ensure_ascii=False).encode() + b"\n")

    return row


def _make_row(
    file: Path, media: Path, query: str, span: tuple[float, float] | None, keyframes: dict[int, Box], reply: str | None
) -> AnnotationRow:
    query = query.strip()
    if not query:
        raise RowError("a correction needs a sentence")

    size = _image_size(media) if span is None else None
    if size is not None:
        column, asked, facts = "images", "rec", Facts(*size)
        parts = _image_parts(facts, keyframes)
    else:
        column, asked = "videos", "stvg"
        facts, parts = _video_parts(media, span, keyframes)

    task, seconds = parts["task"], parts.get("target", {}).get("span_seconds")
    reply = reply or (prompts.NOT_THERE if task == "qa" else prompts.answer(task, seconds))
    messages = [
        {"role": "user", "content": VISUAL_TAGS[column] + prompts.instruction(asked if task == "qa" else task, query)},
        {"role": "assistant", "content": reply},
    ]
    row_id = f"{GROUP}/{media.name}/{secrets.token_hex(6)}"
    row = {"id": row_id, "group": GROUP, "query": query, "messages": messages, column: [_stored(media, file.parent)]}
    # By way of JSON, as it will be read: that knows what no file can hold, too.
    made = parse_row(json.dumps(row | parts), where="correction")
    error = first_error(made, facts)
    if error is not None:
        raise error

    return made


def _image_parts(facts: Facts, keyframes: dict[int, Box]) -> dict[str, Any]:
    media = {"width": facts.width, "height": facts.height}
    if not keyframes:
        return {"task": "qa", "media": media}

    if set(keyframes) != {0}:
        raise RowError(f"boxes at frames {sorted(keyframes)} of an image, which has frame 0 alone")

    return {"task": "rec", "media": media, "target": _boxes(keyframes, facts)}


def _video_parts(
    media: Path, span: tuple[float, float] | None, keyframes: dict[int, Box]
) -> tuple[Facts, dict[str, Any]]:
    ref = VideoRef.parse(media)
    info = probe(ref)
    clock = info.timeline
    known = {"width": info.width, "height": info.height, "fps": clock.fps, "num_frames": clock.num_frames}
    if span is None:
        if keyframes:
            raise RowError("boxes in a video, but no span")

        return Facts.of_video(ref, info.width, info.height, clock, ()), {"task": "qa", "media": known}

    if not (all(map(math.isfinite, span)) and span[0] < span[1]):
        raise RowError(f"the span {list(span)} is empty, reversed or not a number", "span-reversed")

    frames = clock.span_frames(span)
    facts = Facts.of_video(ref, info.width, info.height, clock, frames)
    target = {"span_frames": frames, "span_seconds": [round(s, SECOND_DECIMALS) for s in clock.span_seconds(frames)]}
    if not keyframes:
        return facts, {"task": "vtg", "media": known, "target": target}

    return facts, {"task": "stvg", "media": known, "target": target | _boxes(_within(keyframes, *frames), facts)}


def _image_size(media: Path) -> tuple[int, int] | None:
    """None for what is no image, and so perhaps a video."""
    with suppress(MediaError):
        return image_size(media)

    return None


def _within(keyframes: dict[int, Box], start: int, end: int) -> dict[int, Box]:
    """The same tube inside a span, with no keyframe outside it."""
    frames = sorted(keyframes)
    inside = [frame for frame in frames if start <= frame < end]
    if frames[0] < start:
        inside.append(start)

    if frames[-1] >= end:
        inside.append(end - 1)

    inside = sorted(set(inside))
    return dict(zip(inside, interpolate_boxes(frames, [keyframes[frame] for frame in frames], inside).tolist()))


def _boxes(keyframes: dict[int, Box], facts: Facts) -> dict[str, list]:
    limits = (facts.width, facts.height) * 2
    boxes = [
        [round(min(max(value, 0.0), float(limit)), PIXEL_DECIMALS) for value, limit in zip(box, limits)]
        for box in keyframes.values()
    ]
    return {"frames": list(keyframes), "boxes": boxes}


def _stored(media: Path, folder: Path) -> str:
    path, folder = Path(os.path.abspath(media)), os.path.abspath(folder)
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _line_end(file: Path) -> list[str]:
    """An empty line's end where somebody has left the last line without its own."""
    with suppress(FileNotFoundError), open(file, "rb") as there:
        size = there.seek(0, os.SEEK_END)
        there.seek(max(size - 1, 0))
        return [""] if size and there.read() != b"\n" else []

    return []


def _with_entry(info_file: Path, file: Path) -> dict[str, Any] | None:
    """The index of data sets with an entry for a file; None where it has one already.

    Raises:
        OutputError: It is no index, or has the file's name for something else.
    """
    try:
        info = from_json(info_file.read_bytes().removeprefix(BOM_UTF8))
    except FileNotFoundError:
        info = {}
    except (OSError, ValueError) as err:
        raise OutputError(f"{info_file}: not a readable index of data sets ({err})") from None

    if not isinstance(info, dict):
        raise OutputError(f"{info_file}: not an object of data sets")

    own = {"file_name": file.name, "formatting": "spacevllm"}
    entries = [entry for entry in info.values() if isinstance(entry, dict) and entry.get("file_name") == file.name]
    if any(entry.get("formatting") == own["formatting"] for entry in entries):
        return None

    if entries or file.stem in info:
        raise OutputError(f"{info_file}: {file.stem!r} is a data set of another kind: choose another file name")

    return {**info, file.stem: own}
