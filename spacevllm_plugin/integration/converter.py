"""Hook on `data.converter`: `"formatting": "spacevllm"` in dataset_info.json."""

import json
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..data.media import locate, video_source
from ..data.schema import RowError, dump_row, parse_row, split_turns
from ..data.shortened import shortened
from ..data.storage import is_remote, parent
from .lines import FILE, NUMBER, TEXT


FORMATTING = "spacevllm"
# A JSON string survives Arrow and `concatenate_datasets` whatever the other data sets of a mixture look like.
COLUMN = "_spacevllm"


def without_nulls(value: Any) -> Any:
    """Undo what Arrow adds: a null for every field that some other row has."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}

    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def install(module: ModuleType) -> None:
    """Register the converter."""

    @dataclass
    class SpaceVLLMDatasetConverter(module.DatasetConverter):
        """Annotation rows; a bad one is carried on with its error, so that all of them can be named at once."""

        def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
            if TEXT in example:
                where, data = f"{example[FILE]}:{example[NUMBER]}", example[TEXT]
            else:
                where, data = str(self.dataset_attr), without_nulls(dict(example))

            try:
                row = parse_row(data, where=where)
            except RowError as err:
                return self._output([], [], payload={"error": str(err)})

            where = f"{where} (id {shortened(row.id)})"
            try:
                system, turns = split_turns(row.messages)
            except RowError as err:
                return self._output([], [], payload={"error": f"{where}: {err}"})

            messages = [turn.model_dump() for turn in turns]
            folders = self._media_folders()
            images = [locate(image, folders) for image in row.images or []]
            videos = [video_source(row, i, folders) for i in range(len(row.videos or []))]
            payload = {"row": json.loads(dump_row(row)), "where": where}
            return self._output(messages[:-1], messages[-1:], system, images or None, videos or None, payload)

        def _media_folders(self) -> list[str]:
            """`media_dir` as everywhere in LLaMA-Factory, then the annotation file's own folder."""
            folders = [self.data_args.media_dir]
            if is_remote(self.dataset_attr.dataset_name):
                folders.append(parent(self.dataset_attr.dataset_name))
            elif self.dataset_attr.load_from == "file":
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

    module.register_dataset_converter(FORMATTING, SpaceVLLMDatasetConverter)
