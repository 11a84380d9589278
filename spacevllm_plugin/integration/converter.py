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


def locate(path: str, folders: list[str]) -> str:
    """A media path: in the first of the folders that has it, or else as it is."""
    candidates = (os.path.join(folder, path) for folder in folders)
    return next((candidate for candidate in candidates if os.path.exists(candidate)), path)


def video_source(row: AnnotationRow, index: int, folders: list[str]) -> str:
    """One of a row's videos as the string that travels through LLaMA-Factory; the first one has the row's clip."""
    video = row.videos[index]
    media = row.media if index == 0 else None
    clip = media.clip if media and media.clip != (0, media.num_frames) else None
    fps = media.fps if media else None
    if not isinstance(video, str):
        return VideoRef(frames=tuple(locate(frame, folders) for frame in video), clip=clip, fps=fps).encode()

    path = locate(video, folders)
    return VideoRef(path=path, clip=clip, fps=fps if os.path.isdir(path) else None).encode()


def install(module: ModuleType) -> None:
    """Register the converter."""

    @dataclass
    class SpaceVLLMDatasetConverter(module.DatasetConverter):
        """Annotation rows; a bad one is carried on with its error, so that all of them can be named at once."""

        def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
            example = without_nulls(dict(example))
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

            folders = self._media_folders()
            images = [locate(image, folders) for image in row.images or []]
            videos = [video_source(row, i, folders) for i in range(len(row.videos or []))]
            payload = {"row": json.loads(dump_row(row))}
            return self._output(messages[:-1], messages[-1:], system, images or None, videos or None, payload)

        def _media_folders(self) -> list[str]:
            """`media_dir` as everywhere in LLaMA-Factory, then the annotation file's own folder."""
            folders = [self.data_args.media_dir]
            if self.dataset_attr.load_from == "file":
                file = os.path.join(self.data_args.dataset_dir, self.dataset_attr.dataset_name)
                folders.append(os.path.dirname(file))

            return folders

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
