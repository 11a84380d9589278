"""TACoS, in 2D-TAN's files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from .base import Raw, Report, Sample, Whole, option, parse_raw
from .moments import MomentSource, paired
from .streams import json_entries


class _Video(Raw):
    timestamps: list[tuple[float, float]]
    sentences: list[str]
    fps: float = Field(gt=0)
    num_frames: Whole = Field(gt=0)


@dataclass(kw_only=True)
class TACoS(MomentSource):
    """TACoS: spans in frames, several sentences for each video.

    Seconds are frame / fps with the file's own fps (29.4), cut at num_frames / fps.
    """

    name = "tacos"
    folder = "tacos"
    example = "--annotations test.json --split test --out data_info/tacos/test.jsonl"

    annotations: Path = option("2D-TAN's train.json, val.json or test.json", Path)
    split: str = option("which split the file is", choices=("train", "val", "test"))

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return f"tacos_{self.split}"

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read video by video."""
        for video, data in json_entries(self.annotations):
            raw = parse_raw(_Video, data, report, video)
            if raw is None:
                continue

            length = raw.num_frames / raw.fps
            for index, (first, last), sentence in paired(video, raw.timestamps, raw.sentences, report):
                sample_id = f"tacos/{self.split}/{video}/{first:g}-{last:g}/{index}"
                sample = self.moment(report, sample_id, video, sentence, [(first / raw.fps, last / raw.fps)], length)
                if sample is not None:
                    yield sample
