"""Stage 2: a detector boxes the objects on the frames of the coarse span."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.schema import AnnotationRow, Media
from ..data.storage import join
from ..data.video import MediaError, VideoInfo, VideoRef, probe, read
from .detector import Detector
from .rows import Analyzed, Annotated, AnnotatedFrame, Detection, Kept, Rejected


# Frames decoded at once: each time anew from the last keyframe, so not too few; held in memory, so not too many.
READ_FRAMES = 64
FPS_TOLERANCE = 0.01


class Annotator:
    """The stage.

    Args:
        detector: Finds the boxes.
        media_dir: Where relative paths start; may be an address.
        options: What the detector's answers depend on (checkpoint, threshold), for resuming.
        stride: Look at every n-th frame of the span.
        batch_size: Frames that the detector gets at once.
    """

    name = "annotate"
    reads = Analyzed
    reasons = {
        "unreadable": "the video cannot be read",
        "media_differs": "size, frame rate or length are not what the row says",
        "nothing_found": "the main subject is on no frame",
    }

    def __init__(
        self,
        detector: Detector,
        media_dir: Path | str,
        options: dict[str, Any],
        stride: int = 1,
        batch_size: int = 8,
    ) -> None:
        self.detector, self.media_dir = detector, media_dir
        self.stride, self.batch_size = stride, batch_size
        self.options = {**options, "stride": stride}

    def process(self, rows: Iterator[Analyzed]) -> Iterator[tuple[str, Kept | Rejected]]:
        """Row by row; a row's frames are batched among themselves, so that no row depends on another."""
        for row in rows:
            yield row.id, self._annotate(row)

    def _annotate(self, row: Analyzed) -> Kept | Rejected:
        ref = _reference(row.source, self.media_dir)
        try:
            info = probe(ref)
            source = _with_media(row.source, info)
            if differs := _difference(source, info):
                return Rejected("media_differs", differs)

            wanted = list(range(*source.target.span_frames, self.stride))
            found: list[list[Detection]] = []
            for start in range(0, len(wanted), READ_FRAMES):
                images = read(ref, wanted[start : start + READ_FRAMES])
                for first in range(0, len(images), self.batch_size):
                    found += self.detector.detect(images[first : first + self.batch_size], row.objects)
        except MediaError as err:
            return Rejected("unreadable", str(err))

        counts = {"frames": len(wanted), "boxes": sum(map(len, found))}
        if not any(detection.label == 0 for detections in found for detection in detections):
            return Rejected("nothing_found", f"no {row.objects[0]!r} on {len(wanted)} frames", counts)

        seconds = info.timeline.seconds
        frames = [
            AnnotatedFrame(frame=frame, seconds=(seconds(frame), seconds(frame + 1)), detections=detections)
            for frame, detections in zip(wanted, found, strict=True)
        ]
        return Kept(Annotated(id=row.id, source=source, objects=row.objects, frames=frames), counts)


def _reference(row: AnnotationRow, media_dir: Path | str) -> VideoRef:
    """The row's first video."""
    source, fps = row.videos[0], row.media.fps if row.media else None
    if isinstance(source, str):
        return VideoRef(path=join(str(media_dir), source), fps=fps)

    return VideoRef(frames=tuple(join(str(media_dir), file) for file in source), fps=fps)


def _with_media(row: AnnotationRow, info: VideoInfo) -> AnnotationRow:
    """The row; one that was converted without its video, and so counts in seconds only, with what the file says."""
    if row.media is not None:
        return row

    timeline = info.timeline
    media = Media(width=info.width, height=info.height, fps=timeline.fps, num_frames=timeline.num_frames)
    span = timeline.span_frames(row.target.span_seconds)
    return row.model_copy(update={"media": media, "target": row.target.model_copy(update={"span_frames": span})})


def _difference(row: AnnotationRow, info: VideoInfo) -> str | None:
    """What of the row's media is not so in the file and would put boxes or times in the wrong place."""
    media, timeline = row.media, info.timeline
    if (media.width, media.height) != (info.width, info.height):
        return f"{media.width}x{media.height} in the row, {info.width}x{info.height} in the file"

    if abs(media.fps - timeline.fps) > FPS_TOLERANCE * timeline.fps:
        return f"{media.fps:g} frames a second in the row, {timeline.fps:g} in the file"

    start, length = row.target.span_seconds[0], timeline.seconds(timeline.num_frames)
    if start >= length:
        return f"the span starts at {start:g} s, the file ends at {length:g} s"

    end = row.target.span_frames[1]
    return f"the span ends at frame {end}, the file at {timeline.num_frames}" if end > timeline.num_frames else None
