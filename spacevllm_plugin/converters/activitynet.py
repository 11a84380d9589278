"""ActivityNet Captions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from .base import Raw, Report, Sample, option, parse_raw
from .moments import MomentSource, paired
from .streams import json_entries


class _Video(Raw):
    duration: float = Field(gt=0)
    timestamps: list[tuple[float, float]]
    sentences: list[str]


@dataclass(kw_only=True)
class ActivityNet(MomentSource):
    """ActivityNet Captions: spans in seconds, several sentences for each video.

    Spans are cut at the duration that the file states.
    """

    name = "activitynet"
    folder = "activitynet"
    example = "--annotations val_1.json --split val --out data_info/activitynet_captions/val.jsonl"

    annotations: Path = option("train.json, val_1.json (val) or val_2.json (test)", Path)
    split: str = option("which split the file is", choices=("train", "val", "test"))

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return f"activitynet_captions_{self.split}"

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read video by video."""
        for video, data in json_entries(self.annotations):
            raw = parse_raw(_Video, data, report, video)
            if raw is None:
                continue

            for index, span, sentence in paired(video, raw.timestamps, raw.sentences, report):
                sample_id = f"activitynet_captions/{self.split}/{video}/{span[0]:g}-{span[1]:g}/{index}"
                sample = self.moment(report, sample_id, f"{video}.mp4", sentence, [span], raw.duration)
                if sample is not None:
                    yield sample
