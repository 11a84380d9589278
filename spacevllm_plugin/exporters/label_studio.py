"""Label Studio's tasks with predictions: keyframes in per cent of the picture, frames counted from 1."""

import json
from typing import Any, BinaryIO

import numpy as np

from .base import LABEL, Exporter, FrameBoxes, TubeRecord, by_medium, xywh


# Interfaces of a project that shows them; videos and images need one each.
VIDEO_INTERFACE = f"""<View>
  <Labels name="labels" toName="video"><Label value="{LABEL}"/></Labels>
  <Video name="video" value="$video" framerate="$fps"/>
  <VideoRectangle name="box" toName="video"/>
</View>"""
IMAGE_INTERFACE = f"""<View>
  <RectangleLabels name="box" toName="image"><Label value="{LABEL}"/></RectangleLabels>
  <Image name="image" value="$image"/>
</View>"""
# A hundredth of a pixel on a picture of 100,000.
DECIMALS = 7


def dump(file: BinaryIO, tubes: list[TubeRecord]) -> None:
    """Write what a project of Label Studio imports: a task for each medium, a region for each tube."""
    tasks = []
    for group in by_medium(tubes).values():
        first = group[0]
        data = {"image": first.name} if first.is_image else {"video": first.name, "fps": first.fps}
        regions = {f"tube_{number}": tube for number, tube in enumerate(group, start=1)}
        # Of those that have no region, too.
        data["tubes"] = [
            {"region": name, "id": tube.id, "query": tube.query, "status": tube.answer.outcome}
            for name, tube in regions.items()
        ]
        result = [_region(name, tube) for name, tube in regions.items() if len(tube.tube.frames)]
        tasks.append({"data": data, "predictions": [{"model_version": "spacevllm", "result": result}]})

    file.write(json.dumps(tasks, ensure_ascii=False, allow_nan=False).encode())


def _region(name: str, tube: TubeRecord) -> dict[str, Any]:
    common = {"id": name, "from_name": "box", "origin": "prediction", "meta": {"text": [tube.query]}}
    if tube.is_image:
        size = {"original_width": tube.width, "original_height": tube.height, "image_rotation": 0}
        value = {**_percent(tube, tube.tube.boxes[0]), "rotation": 0, "rectanglelabels": [LABEL]}
        return {**common, **size, "to_name": "image", "type": "rectanglelabels", "value": value}

    value = {
        "framesCount": tube.num_frames,
        "duration": tube.num_frames / tube.fps,
        "sequence": [keyframe for run in tube.tube.runs() for keyframe in _sequence(tube, run)],
        "labels": [LABEL],
    }
    return {**common, "to_name": "video", "type": "videorectangle", "value": value}


def _sequence(tube: TubeRecord, run: FrameBoxes) -> list[dict[str, Any]]:
    last = int(run.frames[-1])
    return [
        {
            "frame": frame + 1,
            # Whether it goes on behind this keyframe.
            "enabled": frame != last,
            "rotation": 0,
            **_percent(tube, box),
            # Label Studio's own arithmetic, which knows no other clock.
            "time": (frame + 1) / tube.fps,
        }
        for frame, box in zip(run.frames[run.keyframes].tolist(), run.boxes[run.keyframes])
    ]


def _percent(tube: TubeRecord, box: np.ndarray) -> dict[str, float]:
    sizes = (tube.width, tube.height) * 2
    parts = zip(("x", "y", "width", "height"), xywh(box), sizes)
    return {name: round(100 * value / size, DECIMALS) for name, value, size in parts}


LABEL_STUDIO = Exporter("label-studio", ".json", "set", dump)
