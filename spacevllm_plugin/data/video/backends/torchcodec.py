"""torchcodec (extra `torchcodec`; needs FFmpeg's shared libraries)."""

import numpy as np
from PIL import Image
from torchcodec.decoders import VideoDecoder

from ..index import Index
from .errors import Unfit, check_times
from .keep import Keep


def decode(path: str, index: Index, wanted: list[int], threads: int, keep: Keep) -> None:
    """See the package."""
    times, frame_seconds = index.file_seconds(wanted), 1 / index.info.timeline.fps
    # The approximate mode trusts the header, which is checked below; the exact one lists all packets first.
    for mode in ("approximate", "exact") if index.info.timeline.timestamps is None else ("exact",):
        try:
            decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode=mode)
            # A part of a frame later, since a time from the header may round to just before its frame.
            moments = times + _offset(index, wanted, frame_seconds)
            for frame, time, moment in zip(wanted, times, moments.tolist()):
                found = decoder.get_frame_played_at(moment)
                check_times(path, index, np.array([time]), np.array([found.pts_seconds]))
                keep(frame, Image.fromarray(np.ascontiguousarray(found.data.numpy())))

            return
        except (RuntimeError, ValueError, IndexError, Unfit) as err:
            failure = err

    raise Unfit(f"{path}: {failure}")


def _offset(index: Index, wanted: list[int], frame_seconds: float) -> np.ndarray:
    """A quarter of the time that each frame is shown."""
    timeline = index.info.timeline
    shown = [timeline.seconds(frame + 1) - timeline.seconds(frame) for frame in wanted]
    return np.array(shown) / 4 if timeline.timestamps is not None else np.full(len(wanted), frame_seconds / 4)
