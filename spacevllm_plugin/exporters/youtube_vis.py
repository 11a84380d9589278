"""YouTube-VIS JSON: a video with its frames, and for each tube a list with a box or null for each of them."""

import json
from typing import Any, BinaryIO

from .base import Exporter, TubeRecord, by_medium, frames_of, polygon, xywh
from .coco import CATEGORIES


def dump(file: BinaryIO, tubes: list[TubeRecord]) -> None:
    """Write what the YouTube-VIS API (`ytvos.YTVOS`) and the loaders of detectron2's kin read; an image is one frame."""
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video_id, group in enumerate(by_medium(tubes).values(), start=1):
        first, frames = group[0], frames_of(group)
        size = {"width": first.width, "height": first.height, "length": len(frames)}
        names = [first.frame_name(frame) for frame in frames]
        videos.append({"id": video_id, "name": first.name, **size, "file_names": names})
        for tube in group:
            boxes: list[Any] = [None] * len(frames)
            for frame, box in zip(tube.tube.frames.tolist(), tube.tube.boxes):
                boxes[frame - frames.start] = box

            # A track without any box is none to these tools.
            if len(tube.tube.frames):
                rectangles = [None if box is None else xywh(box) for box in boxes]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "video_id": video_id,
                        "category_id": 1,
                        **size,
                        "iscrowd": 0,
                        "bboxes": rectangles,
                        "areas": [None if box is None else round(box[2] * box[3], 2) for box in rectangles],
                        # Their loaders leave out what has no mask.
                        "segmentations": [None if box is None else polygon(box) for box in boxes],
                        "tube_id": tube.id,
                        "query": tube.query,
                    }
                )

    info = {"info": {"description": "tubes of SpaceVLLM"}, "licenses": [], "categories": CATEGORIES}
    data = {**info, "videos": videos, "annotations": annotations}
    file.write(json.dumps(data, ensure_ascii=False, allow_nan=False).encode())


YOUTUBE_VIS = Exporter("youtube-vis", ".json", "set", dump)
