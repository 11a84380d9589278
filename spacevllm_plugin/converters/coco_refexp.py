"""COCO-shaped referring expressions: MDETR's `finetune_*.json` and LLaVA-ST's files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field

from .base import Raw, Report, Sample, Whole, option, parse_raw
from .boxes import Box, xyxy
from .expressions import NamedExpressionSource
from .streams import DiskTable, json_items


class _Annotation(Raw):
    id: Whole
    image_id: Whole | None = None
    bbox: Box


class _Image(Raw):
    id: Whole
    file_name: str
    caption: str
    width: Whole = Field(gt=0)
    height: Whole = Field(gt=0)


@dataclass(kw_only=True)
class CocoRefexp(NamedExpressionSource):
    """MDETR's finetune_*.json or LLaVA-ST's files: COCO with one image entry for each sentence.

    The boxes are joined in a temporary file on disk.
    """

    name = "coco-refexp"
    example = (
        "--annotations finetune_refcoco_val.json --dataset-name refcoco_mdetr --split val "
        "--out data_info/refcoco_mdetr/val.jsonl"
    )

    annotations: Path = option("the JSON file", Path)
    join: str = option(
        "field of an annotation that holds the id of its image entry: image_id (MDETR) or id (LLaVA-ST) "
        "(default: %(default)s)",
        default="image_id",
        choices=("image_id", "id"),
    )

    def samples(self, report: Report) -> Iterator[Sample]:
        """Store the boxes, then go image entry by image entry."""
        with DiskTable() as boxes:
            for number, data in enumerate(json_items(self.annotations, "annotations.item")):
                raw = parse_raw(_Annotation, data, report, f"annotation {number}")
                key = getattr(raw, self.join, None)
                if key is not None:
                    boxes[key] = [*(boxes.get(key) or []), raw.bbox]

            for number, data in enumerate(json_items(self.annotations, "images.item")):
                raw = parse_raw(_Image, data, report, f"image {number}")
                sample = self._sample(raw, boxes.get(raw.id) or [], report) if raw is not None else None
                if sample is not None:
                    yield sample

    def _sample(self, raw: _Image, found: list[Box], report: Report) -> Sample | None:
        if len(found) != 1:
            return report.drop("several_boxes" if found else "no_box", f"image entry {raw.id} ({raw.file_name})")

        image = PurePosixPath(raw.file_name).name
        sample_id = self.named_id(image, found[0], raw.caption)
        return self.expression(report, sample_id, image, (raw.width, raw.height), raw.caption, xyxy(found[0]))
