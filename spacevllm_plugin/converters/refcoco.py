"""RefCOCO, RefCOCO+ and RefCOCOg, as the refer repository lays them out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from ..data.shortened import shortened
from .base import Raw, Report, Sample, SourceError, Whole, existing, option, parse_raw
from .boxes import Box, xyxy
from .expressions import ExpressionSource
from .plain_pickle import load_plain
from .streams import json_items


# Who made the splits; the first is the one that papers report.
SPLIT_MAKERS = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}


class _Sentence(Raw):
    sent_id: Whole
    sent: str


class _Ref(Raw):
    ann_id: Whole
    image_id: Whole
    split: str
    sentences: list[_Sentence]


class _Image(Raw):
    id: Whole
    file_name: str
    width: Whole = Field(gt=0)
    height: Whole = Field(gt=0)


class _Annotation(Raw):
    id: Whole
    bbox: Box


@dataclass(kw_only=True)
class RefCOCO(ExpressionSource):
    """RefCOCO, RefCOCO+ or RefCOCOg: one row for each sentence.

    Reads DIR/DATASET/refs(MAKER).p and DIR/DATASET/instances.json. The pickle is read by an unpickler that can build
    plain data only; it is held in memory as a whole (pickles cannot be read in parts), instances.json is not.
    """

    name = "refcoco"
    example = "--refer-dir refer/data --dataset-name refcoco+ --split testA --out data_info/refcoco_plus/testA.jsonl"

    refer_dir: Path = option("refer's data folder", Path)
    dataset_name: str = option("which of the three", choices=tuple(SPLIT_MAKERS))
    split_by: str | None = option(
        "who made the splits (default: unc; umd for refcocog)", default=None, choices=("unc", "umd", "google")
    )
    split: str = option("which split", choices=("train", "val", "test", "testA", "testB"))

    def __post_init__(self) -> None:
        makers = SPLIT_MAKERS[self.dataset_name]
        self.split_by = self.split_by or makers[0]
        if self.split_by not in makers:
            raise SourceError(f"--split-by: {self.dataset_name} has splits by {' and '.join(makers)} only")

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        name = self.dataset_name.replace("+", "_plus")
        default = SPLIT_MAKERS[self.dataset_name][0]
        return f"{name}_{self.split}" if self.split_by == default else f"{name}_{self.split_by}_{self.split}"

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read the references, look up their boxes and images, then go sentence by sentence."""
        folder = existing(self.refer_dir / self.dataset_name, "--refer-dir")
        refs = self._refs(folder / f"refs({self.split_by}).p", report)
        instances = existing(folder / "instances.json", "--refer-dir")
        boxes = _chosen(_Annotation, instances, "annotations.item", {ref.ann_id for ref in refs}, report)
        images = _chosen(_Image, instances, "images.item", {ref.image_id for ref in refs}, report)
        for ref in refs:
            for sentence in ref.sentences:
                sample_id = f"{self.dataset_name}/{self.split_by}/{self.split}/{ref.ann_id}/{sentence.sent_id}"
                if ref.ann_id not in boxes or ref.image_id not in images:
                    report.drop("no_box" if ref.image_id in images else "no_image_entry", sample_id)
                    continue

                image = images[ref.image_id]
                sample = self.expression(
                    report,
                    sample_id,
                    image.file_name,
                    (image.width, image.height),
                    sentence.sent,
                    xyxy(boxes[ref.ann_id].bbox),
                )
                if sample is not None:
                    yield sample

    def _refs(self, path: Path, report: Report) -> list[_Ref]:
        data = load_plain(path)
        if not isinstance(data, list):
            raise SourceError(f"{path}: not a list of references")

        parsed = (parse_raw(_Ref, item, report, f"reference {i}") for i, item in enumerate(data))
        every = [ref for ref in parsed if ref is not None]
        refs = [ref for ref in every if ref.split == self.split]
        if every and not refs:
            there = ", ".join(sorted({ref.split for ref in every}))
            raise SourceError(f"{path}: no split {self.split!r}; it has {shortened(there)}")

        return refs


def _chosen(model: type[Raw], path: Path, prefix: str, ids: set[int], report: Report) -> dict:
    """Records of one list of instances.json by id; those that nobody asks for are passed over."""
    found = {}
    for item in json_items(path, prefix):
        # A list would have no hash to be looked up by.
        if isinstance(item, dict) and isinstance(item.get("id"), int | float) and item["id"] in ids:
            raw = parse_raw(model, item, report, f"{prefix} {item['id']}")
            if raw is not None:
                found[raw.id] = raw

    return found
