"""Pictures: images of a row, and frames of a video that is given as images. The only place that opens one.

They are seen as they are displayed, upright after the orientation that cameras note in EXIF: boxes are drawn on that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from PIL import ExifTags, Image

from ..storage import is_ranged
from .remote import open_image
from .source import MediaError, media_errors


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


def image_size(source: Any) -> tuple[int, int]:
    """(width, height) of an image as displayed, from its header; raises `MediaError`."""
    with _opened(source, whole=False) as image:
        sideways = _orientation(image) in SIDEWAYS
        return image.size[::-1] if sideways else image.size


def read_image(source: Any) -> Image.Image:
    """An upright RGB picture.

    Args:
        source: A path, bytes, a `{"path", "bytes"}` dict of the datasets library, or an image already open.

    Raises:
        MediaError: It cannot be read.
    """
    with _opened(source, whole=True) as image:
        orientation = _orientation(image)
        picture = image.convert("RGB")
        return picture.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else picture


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation that stands before the pixels: PNG's own method would decode them to look behind them too."""
    if image.format == "TIFF":
        # Pillow turns these itself; in its older releases the size is right only then.
        image.load()
        return None

    return Image.Image.getexif(image).get(ExifTags.Base.Orientation)


@contextmanager
def _opened(source: Any, whole: bool) -> Iterator[Image.Image]:
    """An image of which only the header has been read; what goes wrong with it becomes a `MediaError`.

    Args:
        source: As in `read_image`.
        whole: Its pixels will be read, too.
    """
    if isinstance(source, dict):
        source = source.get("bytes") or source.get("path")

    name = f"an image of {len(source)} bytes" if isinstance(source, bytes) else source
    with media_errors(name, "not a readable image"):
        if isinstance(source, Image.Image):
            yield source
            return

        try:
            file = open_image(source, whole) if is_ranged(source) else source
            image = Image.open(BytesIO(file) if isinstance(file, bytes) else file)
        except FileNotFoundError:
            raise MediaError(f"{name}: no such image") from None

        with image:
            yield image
