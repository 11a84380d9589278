"""Charades-STA."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .base import Report, Sample, SourceError, existing, option, text_key
from .moments import MomentSource
from .streams import lines


LINE = re.compile(r"(\S+) +(\d+(?:\.\d+)?) +(\d+(?:\.\d+)?) *##(.*)", re.DOTALL)


@dataclass(kw_only=True)
class CharadesSTA(MomentSource):
    """Charades-STA: lines `VIDEO start end##sentence.` in seconds.

    Ends beyond the video are cut at its length: that of --lengths, else that of the file below --media-dir.
    """

    name = "charades-sta"
    folder = "charades"
    example = (
        "--annotations charades_sta_test.txt --lengths Charades_v1_test.csv --split test "
        "--out data_info/charades_sta/test.jsonl"
    )

    annotations: Path = option("charades_sta_train.txt or charades_sta_test.txt", Path)
    lengths: Path | None = option("Charades_v1_train.csv or _test.csv: its column `length` cuts ends", Path, None)
    split: str = option("which split the file is", choices=("train", "test"))

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return f"charades_sta_{self.split}"

    @cached_property
    def _lengths(self) -> dict[str, float] | None:
        """Seconds of each video; None where no file was given."""
        if self.lengths is None:
            return None

        with open(existing(self.lengths, "--lengths"), newline="", encoding="utf-8", errors="replace") as file:
            try:
                return {row["id"]: float(row["length"]) for row in csv.DictReader(file)}
            except (KeyError, TypeError, ValueError, csv.Error) as err:
                raise SourceError(f"{self.lengths}: needs columns `id` and `length` ({err})") from None

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read line by line."""
        lengths = self._lengths
        for number, line in lines(self.annotations):
            match = LINE.fullmatch(line.decode(errors="replace"))
            if match is None:
                report.drop("malformed", f"line {number}")
                continue

            video, start, end, sentence = match.groups()
            sample_id = f"charades_sta/{self.split}/{video}/{start}-{end}/{text_key(sentence)}"
            if lengths is not None and video not in lengths:
                report.drop("no_length", sample_id)
                continue

            length = lengths[video] if lengths is not None else None
            sample = self.moment(report, sample_id, f"{video}.mp4", sentence, [(float(start), float(end))], length)
            if sample is not None:
                yield sample
