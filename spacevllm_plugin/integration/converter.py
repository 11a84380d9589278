"""Hook on `data.converter`: `"formatting": "spacevllm"` in dataset_info.json."""

import json
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..data.schema import AnnotationRow, RowError, dump_row, parse_row
from ..data.video import VideoRef


# A JSON string survives Arrow and `concatenate_datasets` whatever the other data sets of a mixture look like.
COLUMN = "_spacevllm"


def without_nulls(value: Any) -> Any:
    """Undo what Arrow adds: a null for every field that some other row has."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}

    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def locate(path: str, media_dir: str) -> str:
    """A media path, in `media_dir` if it exists there."""
    inside = os.path.join(media_dir, path)
    return inside if os.path.exists(inside) else path


def video_source(row: AnnotationRow, index: int, media_dir: str) -> str:
    """One of a row's videos as the string that travels through LLaMA-Factory; the first one has the row's clip."""
    video = row.videos[index]
    media = row.media if index == 0 else None
    ref = VideoRef(
        path=locate(video, media_dir) if isinstance(video, str) else None,
        frames=None if isinstance(video, str) else tuple(locate(frame, media_dir) for frame in video),
        clip=media.clip if media and media.clip != (0, media.num_frames) else None,
        fps=media.fps if media and (not isinstance(video, str) or os.path.isdir(locate(video, media_dir))) else None,
    )
    return ref.encode()


def install(module: ModuleType) -> None:
    """Register the converter."""

    @dataclass
    class SpaceVLLMDatasetConverter(module.DatasetConverter):
        """Annotation rows; a bad one is carried on with its error, so that all of them can be named at once."""

        def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
            example = without_nulls(example)
            try:
                row = parse_row(example, where=str(self.dataset_attr))
            except RowError as err:
                return self._output([], [], payload={"error": str(err)})

            messages = [message.model_dump() for message in row.messages]
            system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
            roles = [message["role"] for message in messages]
            if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
                error = f"{self.dataset_attr} (id {row.id}): the messages are not user and assistant in turn"
                return self._output([], [], payload={"error": error})

            media_dir = self.data_args.media_dir
            images = [locate(image, media_dir) for image in row.images or []]
            videos = [video_source(row, i, media_dir) for i in range(len(row.videos or []))]
            payload = {"row": json.loads(dump_row(row))}
            return self._output(messages[:-1], messages[-1:], system, images or None, videos or None, payload)

        @staticmethod
        def _output(prompt, response, system="", images=None, videos=None, payload=None) -> dict[str, Any]:
            return {
                "_prompt": prompt,
                "_response": response,
                "_system": system,
                "_tools": "",
                "_images": images,
                "_videos": videos,
                "_audios": None,
                COLUMN: json.dumps(payload, ensure_ascii=False),
            }

    module.register_dataset_converter("spacevllm", SpaceVLLMDatasetConverter)
