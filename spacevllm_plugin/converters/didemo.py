"""DiDeMo."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from .base import Raw, Report, Sample, Whole, option, parse_raw
from .moments import MomentSource
from .streams import json_items


CHUNK_SECONDS = 5.0
Chunks = tuple[Whole, Whole]


class _Item(Raw):
    annotation_id: Whole | str
    description: str
    video: str
    times: list[Chunks] = Field(min_length=1)
    num_segments: Whole = Field(gt=0)


@dataclass(kw_only=True)
class DiDeMo(MomentSource):
    """DiDeMo: spans of 5-second chunks by several annotators.

    Both chunks of a span belong to it: [1, 4] is 5 to 25 s, cut at the length (5 s for each of num_segments, or the
    file's below --media-dir if that is shorter). Of the annotators' spans the one that most of them gave is taken; among equals
    the one with the highest mean IoU with all of them, then the earliest, then the shortest.
    """

    name = "didemo"
    folder = "didemo"
    example = "--annotations test_data.json --split test --out data_info/didemo/test.jsonl"

    annotations: Path = option("train_data.json, val_data.json or test_data.json", Path)
    split: str = option("which split the file is", choices=("train", "val", "test"))

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return f"didemo_{self.split}"

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read item by item."""
        for number, data in enumerate(json_items(self.annotations)):
            raw = parse_raw(_Item, data, report, f"item {number}")
            if raw is None:
                continue

            sample_id = f"didemo/{self.split}/{raw.video}/{raw.annotation_id}"
            first, last = consensus(raw.times)
            span = (first * CHUNK_SECONDS, min(last + 1, raw.num_segments) * CHUNK_SECONDS)
            sample = self.moment(report, sample_id, raw.video, raw.description, [span])
            if sample is not None:
                if last >= raw.num_segments:
                    sample.repairs.add("span_cut_to_video")

                yield sample


def consensus(times: list[Chunks]) -> Chunks:
    """The annotators' common span, see `DiDeMo`: first and last chunk, both inclusive."""
    votes = Counter(times)

    def agreement(span: Chunks) -> float:
        return sum(_chunk_iou(span, other) for other in times)

    return min(votes, key=lambda span: (-votes[span], -agreement(span), span))


def _chunk_iou(a: Chunks, b: Chunks) -> float:
    common = min(a[1], b[1]) - max(a[0], b[0]) + 1
    # Nothing in common is 0 of anything: two reversed spans may have no length together.
    return common / (max(a[1], b[1]) - min(a[0], b[0]) + 1) if common > 0 else 0.0
