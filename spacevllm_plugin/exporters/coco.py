"""COCO JSON, with the videos and tracks that TAO adds to it: an image for each native frame, a box for each of the tube."""

import json
from typing import Any, BinaryIO

from .base import LABEL, Exporter, TubeRecord, by_medium, frames_of, polygon, xywh


CATEGORIES = [{"id": 1, "name": LABEL, "supercategory": LABEL}]


def dump(file: BinaryIO, tubes: list[TubeRecord]) -> None:
    """Write what `pycocotools.coco.COCO` loads."""
    videos: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    tracks: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video_id, group in enumerate(by_medium(tubes).values(), start=1):
        first = group[0]
        size = {"width": first.width, "height": first.height}
        videos.append({"id": video_id, "name": first.name, **size, "fps": first.fps})
        image_ids = {}
        for frame in frames_of(group):
            image_ids[frame] = len(images) + 1
            name = first.frame_name(frame)
            images.append(
                {"id": image_ids[frame], "file_name": name, **size, "video_id": video_id, "frame_index": frame}
            )

        for tube in group:
            track = {"id": len(tracks) + 1, "category_id": 1, "video_id": video_id}
            tracks.append({**track, "tube_id": tube.id, "query": tube.query, "status": tube.answer.outcome})
            for frame, box in zip(tube.tube.frames.tolist(), tube.tube.boxes):
                x, y, width, height = xywh(box)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_ids[frame],
                        "category_id": 1,
                        # Once as in TAO, once as CVAT and Datumaro write it.
                        "track_id": track["id"],
                        "attributes": {"track_id": track["id"]},
                        "video_id": video_id,
                        "bbox": [x, y, width, height],
                        "area": round(width * height, 2),
                        "segmentation": polygon(box),
                        "iscrowd": 0,
                    }
                )

    parts = {"videos": videos, "images": images, "tracks": tracks, "annotations": annotations}
    data = {"info": {"description": "tubes of SpaceVLLM"}, "licenses": [], "categories": CATEGORIES, **parts}
    file.write(json.dumps(data, ensure_ascii=False, allow_nan=False).encode())


COCO = Exporter("coco", ".json", "set", dump)
