"""Referring expressions in Qwen-VL's evaluation files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field

from .base import Raw, Report, Sample, option, parse_raw, text_key
from .boxes import Box
from .expressions import ExpressionSource
from .streams import lines
from .text import tidy


class _Item(Raw):
    image: str
    sent: str
    bbox: Box
    width: int = Field(gt=0)
    height: int = Field(gt=0)


@dataclass(kw_only=True)
class QwenVLRec(ExpressionSource):
    """Qwen-VL's JSONL files: image, sent, bbox (xyxy in pixels), width, height.

    Only the last part of an image's path is used.
    """

    name = "qwenvl-rec"
    example = (
        "--annotations refcoco_testA.jsonl --dataset-name refcoco_qwenvl --split testA "
        "--out data_info/refcoco_qwenvl/testA.jsonl"
    )

    annotations: Path = option("the JSONL file", Path)
    dataset_name: str = option("name of the data set, for the ids and dataset_info.json")
    split: str = option("name of the split, likewise")

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return f"{self.dataset_name}_{self.split}"

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read line by line."""
        for number, line in lines(self.annotations):
            raw = parse_raw(_Item, line, report, f"line {number}")
            if raw is None:
                continue

            image = PurePosixPath(raw.image).name
            place = "-".join(f"{value:g}" for value in raw.bbox)
            sample_id = f"{self.dataset_name}/{self.split}/{image}/{place}/{text_key(tidy(raw.sent))}"
            sample = self.expression(report, sample_id, image, (raw.width, raw.height), raw.sent, raw.bbox)
            if sample is not None:
                yield sample
