"""decord (extra `decord`).

After a seek it counts frames instead of looking at their times, so it is trusted only with files whose header lists all
frames (no transport streams, no fragments) and whose groups of pictures are closed.
"""

from itertools import islice

from decord import DECORDError, VideoReader
from PIL import Image

from ..index import Index, open_video, packets_from_keyframe
from .errors import Unfit, places
from .keep import Keep


# decord hands out a copy of a neighbour for a frame that it cannot decode, unless no frame may be lost.
NO_FRAME = "1e-9"
# More packets than a keyframe has pictures that are shown before it and decoded behind it.
LEADING = 8


def decode(path: str, index: Index, wanted: list[int], threads: int, keep: Keep) -> None:
    """See the package."""
    if not _countable(path, index, wanted):
        raise Unfit(f"{path}: open groups of pictures, or no list of frames")

    try:
        reader = VideoReader(path, num_threads=threads, fault_tol=NO_FRAME)
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        for frame, place in zip(wanted, places(path, index, wanted, starts)):
            # One by one costs no more: what lies between two frames of a batch is decoded or passed over as here.
            keep(frame, Image.fromarray(reader.get_batch([place]).asnumpy()[0]))
    except (DECORDError, RuntimeError) as err:
        raise Unfit(f"{path}: {err}") from None


def _countable(path: str, index: Index, wanted: list[int]) -> bool:
    with open_video(path, threads=1) as (container, stream):
        if not stream.frames:
            return False

        for frame in wanted:
            container.seek(index.pts(frame), stream=stream)
            times = [packet.pts for packet in islice(packets_from_keyframe(container, stream), LEADING)]
            if any(time is not None and time < times[0] for time in times[1:]):
                return False

    return True
