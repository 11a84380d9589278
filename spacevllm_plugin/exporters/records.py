"""From a row and its prediction to what is exported."""

import os
import re
from pathlib import Path

from ..data.media import video_source
from ..data.schema import MEDIA_TAG, AnnotationRow, PredictionRow
from ..data.storage import is_folder
from ..data.video import VideoRef, frame_files
from .base import TubeRecord


BOX_TASKS = ("stvg", "rec")


def make_record(row: AnnotationRow, prediction: PredictionRow, media_dir: Path | str, prefix: str = "") -> TubeRecord:
    """Put together what is exported of a row that has boxes.

    Args:
        row: Of task stvg or rec.
        prediction: Its answer.
        media_dir: Where the row's paths start.
        prefix: Put before each path in the files, for tools that want an address.

    Raises:
        MediaError: A folder of frame images is not there or empty.
    """
    media = row.media
    facts = {
        "id": row.id,
        "query": row.query or re.sub(rf"(?:{MEDIA_TAG.pattern})\s*", "", row.messages[0].content),
        "width": media.width,
        "height": media.height,
        "prediction": prediction,
        "truth": row,
    }
    if row.task == "rec":
        return TubeRecord(media=prefix + row.images[0], **facts)

    source = VideoRef.parse(video_source(row, 0, [str(media_dir)]))
    files = [row.videos[0]] if isinstance(row.videos[0], str) else row.videos[0]
    named: str | tuple[str, ...] = prefix + files[0]
    if source.frames is not None:
        named = tuple(prefix + file for file in files)
    elif is_folder(source.path):
        named = tuple(f"{named.rstrip('/')}/{os.path.basename(file)}" for file in frame_files(source))

    clock = {"fps": media.fps, "num_frames": media.num_frames, "clip": media.clip}
    return TubeRecord(media=named, source=source, **clock, **facts)
