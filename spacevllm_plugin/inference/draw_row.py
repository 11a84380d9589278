"""Pictures of an annotation row: its media found, its tubes drawn."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..data.output import replaced
from ..data.schema import AnnotationRow
from ..data.storage import join
from ..data.video import VideoRef, read_image
from .render import Tube, contact_sheet, render_image, render_video


def file_name(row_id: str) -> str:
    """An id as part of a file name; different ids may give the same."""
    return re.sub(r"[^\w.-]+", "_", row_id)[:150]


def draw_row(
    row: AnnotationRow, tubes: list[Tube], media_dir: Path | str, stem: Path, video: bool = False
) -> Iterator[Path]:
    """Draw a row that has media; the paths of the pictures, each once it is written.

    Args:
        row: The row.
        tubes: What to draw on it.
        media_dir: What the row's paths start from; may be an address.
        stem: Path of the pictures without their suffix: `.png`, a contact sheet or the image, and `.mp4`.
        video: Also write the clip as a video (not for images).

    Raises:
        MediaError: The medium cannot be read.
        OSError: A picture cannot be written, or a storage not reached.
    """
    caption = row.query or re.sub(r"<(video|image)>\s*", "", row.messages[0].content)
    # Not `with_suffix`: an id may hold dots.
    sheet, movie = Path(f"{stem}.png"), Path(f"{stem}.mp4")
    if not row.videos:
        with replaced(sheet) as file:
            render_image(read_image(join(str(media_dir), row.images[0])), tubes, file, caption)

        yield sheet
        return

    source = row.videos[0]
    paths = [join(str(media_dir), path) for path in ([source] if isinstance(source, str) else source)]
    ref = VideoRef.parse(paths[0] if isinstance(source, str) else paths)
    if row.media is not None:
        ref = replace(ref, clip=row.media.clip, fps=row.media.fps)

    with replaced(sheet) as file:
        contact_sheet(ref, tubes, file, caption)

    yield sheet
    if video:
        with replaced(movie) as file:
            render_video(ref, tubes, file, caption)

        yield movie
