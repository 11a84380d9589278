"""Pictures of a chat reply's tubes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ..data.output import replaced
from ..data.reply import Tube, VideoTube
from ..data.timeline import Timeline
from ..data.video import VideoRef, probe, read_image
from .render import PREDICTION_COLOR, contact_sheet, render_image, render_video
from .render import Tube as Drawing


LABEL = "answer"
MOST_SECONDS = 60.0  # of a video that is drawn: somebody waits for it


def draw_reply(tube: Tube, medium: str | Image.Image, stem: Path, caption: str = "") -> Iterator[Path]:
    """Draw one tube of a reply; the paths of the pictures, each once it is written.

    Args:
        tube: What the reply says of the medium.
        medium: The video's path, or the image or its path.
        stem: Path of the pictures without their suffix: `.png`, the contact sheet of the whole video or the image, and
            `.mp4`, the video; of a long one `MOST_SECONDS` around the span.
        caption: The sentence.

    Raises:
        MediaError: The medium cannot be read.
        OSError: A picture cannot be written.
    """
    picture, movie = Path(f"{stem}.png"), Path(f"{stem}.mp4")
    if not isinstance(tube, VideoTube):
        image = medium if isinstance(medium, Image.Image) else read_image(medium)
        with replaced(picture) as file:
            render_image(image, [Drawing(None, [0], [tube.box], LABEL, PREDICTION_COLOR)], file, caption)

        yield picture
        return

    ref = VideoRef.parse(medium)
    drawing = Drawing(tube.span_frames, tube.frames, tube.boxes, LABEL, PREDICTION_COLOR)
    with replaced(picture) as file:
        contact_sheet(ref, [drawing], file, caption)

    yield picture
    with replaced(movie) as file:
        clip = drawn_clip(probe(ref).timeline, tube.span_frames)
        render_video(replace(ref, clip=clip), [drawing], file, caption)

    yield movie


def drawn_clip(timeline: Timeline, span_frames: tuple[int, int] | None) -> tuple[int, int]:
    """The half-open range of native frames that is drawn as a video: `MOST_SECONDS` of it, the span in the middle."""
    most = max(1, round(MOST_SECONDS * timeline.fps))
    first, last = span_frames or (0, 0)
    start = first - max(0, most - (last - first)) // 2
    start = max(0, min(start, timeline.num_frames - most))
    return start, min(start + most, timeline.num_frames)
