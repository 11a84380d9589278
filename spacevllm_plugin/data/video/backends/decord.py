"""decord (extra `decord`)."""

from decord import DECORDError, VideoReader
from PIL import Image

from ..index import Index
from .errors import Unfit, places


# decord hands out a copy of a neighbour for a frame that it cannot decode, unless no frame may be lost.
NO_FRAME = "1e-9"


def decode(path: str, index: Index, wanted: list[int], threads: int) -> dict[int, Image.Image]:
    """See the package."""
    try:
        reader = VideoReader(path, num_threads=threads, fault_tol=NO_FRAME)
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        batch = reader.get_batch(places(path, index, wanted, starts)).asnumpy()
    except (DECORDError, RuntimeError) as err:
        raise Unfit(f"{path}: {err}") from None

    return dict(zip(wanted, map(Image.fromarray, batch)))
