"""Referring expressions in Qwen-VL's evaluation files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field

from .base import Raw, Report, Sample, Whole, option, parse_raw
from .boxes import Box
from .expressions import NamedExpressionSource
from .streams import lines


class _Item(Raw):
    image: str
    sent: str
    bbox: Box
    width: Whole = Field(gt=0)
    height: Whole = Field(gt=0)


@dataclass(kw_only=True)
class QwenVLRec(NamedExpressionSource):
    """Qwen-VL's JSONL files: image, sent, bbox (xyxy in pixels), width, height.

    Only the last part of an image's path is used.
    """

    name = "qwenvl-rec"
    example = (
        "--annotations refcoco_testA.jsonl --dataset-name refcoco_qwenvl --split testA "
        "--out data_info/refcoco_qwenvl/testA.jsonl"
    )

    annotations: Path = option("the JSONL file", Path)

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read line by line."""
        for number, line in lines(self.annotations):
            raw = parse_raw(_Item, line, report, f"line {number}")
            if raw is None:
                continue

            image = PurePosixPath(raw.image).name
            sample_id = self.named_id(image, raw.bbox, raw.sent)
            sample = self.expression(report, sample_id, image, (raw.width, raw.height), raw.sent, raw.bbox)
            if sample is not None:
                yield sample
