"""From an annotation row to the box that each query should give."""

import math

from .plan import VideoPlan
from .schema import AnnotationRow, RowError
from .tube import interpolate_boxes


NO_BOX = [math.nan] * 4


def normalise_box(box: list[float], width: int, height: int) -> list[float]:
    """Pixel xyxy -> normalised (cx, cy, w, h), cut to the frame."""
    x1, x2 = (min(max(value / width, 0.0), 1.0) for value in (box[0], box[2]))
    y1, y2 = (min(max(value / height, 0.0), 1.0) for value in (box[1], box[3]))
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


def pixel_box(box: list[float], width: int, height: int) -> list[float]:
    """Normalised (cx, cy, w, h) -> pixel xyxy, cut to the frame; the inverse of `normalise_box`."""
    cx, cy, w, h = box
    corners = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
    return [min(max(value, 0.0), float(limit)) for value, limit in zip(corners, (width, height) * 2)]


def check_span(row: AnnotationRow, num_frames: int) -> None:
    """Raise `RowError` if a row's span leaves the video as the file has it, which may be shorter than annotated."""
    span = row.target.span_frames if row.task in ("stvg", "vtg") else None
    if span is not None and span[1] > num_frames:
        raise RowError(f"span ends at frame {span[1]} of a video of {num_frames}", "span-beyond-end")


def query_targets(row: AnnotationRow | None, num_images: int, videos: list[VideoPlan]) -> tuple[list, list]:
    """Normalised (cx, cy, w, h) targets of every query of a row; `NO_BOX` where nothing is to be learned.

    Returns:
        One box for each image, and for each video a list with one box for each of its queries. Only the first
        medium of a row carries its target; boxes count inside the span only.
    """
    images = [NO_BOX] * num_images
    tubes = [[NO_BOX] * len(plan.groups) for plan in videos]
    if row is not None and row.task == "rec":
        images[0] = normalise_box(row.target.boxes[0], row.media.width, row.media.height)

    if row is not None and row.task == "stvg":
        start, end = row.target.span_frames
        boxes = interpolate_boxes(row.target.frames, row.target.boxes, videos[0].frames).tolist()
        tubes[0] = [
            normalise_box(box, row.media.width, row.media.height) if start <= frame < end else NO_BOX
            for frame, box in zip(videos[0].frames, boxes)
        ]

    return images, tubes
