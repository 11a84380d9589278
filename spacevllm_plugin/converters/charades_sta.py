"""Charades-STA."""

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import TextIOWrapper
from pathlib import Path

from ..data.shortened import shortened
from .base import Report, Sample, SourceError, option, text_key
from .moments import MomentSource
from .raw_text import raw_text
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

        lengths = {}
        with raw_text(self.lengths) as file:
            reader = csv.DictReader(TextIOWrapper(file, "utf-8", errors="replace", newline=""))
            try:
                if not {"id", "length"} <= set(reader.fieldnames or ()):
                    raise SourceError(f"{self.lengths}: needs columns `id` and `length`")

                for row in reader:
                    lengths[row["id"]] = _seconds(row["length"])
            except (ValueError, csv.Error) as err:
                raise SourceError(f"{self.lengths}: line {reader.line_num}: {err}") from None

        return lengths

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read line by line."""
        lengths = self._lengths
        for number, line in lines(self.annotations):
            text = line.decode(errors="replace")
            match = LINE.fullmatch(text)
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
                if "\ufffd" in text:
                    sample.repairs.add("undecoded_characters")

                yield sample


def _seconds(length: str | None) -> float:
    """A video's length as a number; raises `ValueError` where it is none that a video can have."""
    try:
        seconds = float(length or "")
    except ValueError:
        seconds = math.nan

    # Written so that NaN fails it.
    if not 0 <= seconds < math.inf:
        raise ValueError(f"length {shortened(length or '')!r} is no number of seconds")

    return seconds
