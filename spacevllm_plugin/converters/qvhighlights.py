"""QVHighlights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from .base import Raw, Report, Sample, Whole, option, parse_raw
from .moments import MomentSource
from .streams import lines


class _Item(Raw):
    qid: Whole | str
    query: str
    duration: float = Field(gt=0)
    vid: str
    relevant_windows: list[tuple[float, float]] = Field(min_length=1)


@dataclass(kw_only=True)
class QVHighlights(MomentSource):
    """QVHighlights: one row for each query; its id ends with the qid.

    A query may have several windows: the answer names the longest (the first of equals), and all of them stand in
    target.windows_seconds, which R@1 against the best window and mAP need. Saliency scores are not kept. The test split's
    windows are withheld.
    """

    name = "qvhighlights"
    folder = "qvhighlights"
    example = "--annotations highlight_val_release.jsonl --split val --out data_info/qvhighlights/val.jsonl"

    annotations: Path = option("highlight_train_release.jsonl or highlight_val_release.jsonl", Path)
    split: str = option("which split the file is", choices=("train", "val"))

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return f"qvhighlights_{self.split}"

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read line by line."""
        for number, line in lines(self.annotations):
            raw = parse_raw(_Item, line, report, f"line {number}")
            if raw is None:
                continue

            sample_id = f"qvhighlights/{self.split}/{raw.vid}/{raw.qid}"
            sample = self.moment(
                report, sample_id, f"{raw.vid}.mp4", raw.query, raw.relevant_windows, raw.duration, keep_all=True
            )
            if sample is not None:
                yield sample
