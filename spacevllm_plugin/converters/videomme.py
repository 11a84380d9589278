"""Video-MME."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.shortened import shortened
from .base import Raw, Report, Sample, SourceError, existing, option, parse_raw
from .questions import QuestionSource


LETTERS = "ABCD"


class _Item(Raw):
    videoID: str
    question_id: str
    question: str
    options: list[str]
    answer: str
    duration: str
    domain: str
    sub_category: str
    task_type: str


@dataclass(kw_only=True)
class VideoMME(QuestionSource):
    """Video-MME: multiple choice on 900 videos, without subtitles.

    Scores are broken down by `duration`, `domain`, `sub_category` and `task_type`.
    """

    name = "videomme"
    folder = "videomme"
    example = "--annotations videomme/test-00000-of-00001.parquet --out data_info/videomme/test.jsonl"

    annotations: Path = option("the Parquet file of the test split", Path)

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return "videomme"

    def _table(self) -> list[dict]:
        import pyarrow.parquet

        with open(existing(self.annotations, "--annotations"), "rb") as file:
            try:
                return pyarrow.parquet.read_table(file, columns=list(_Item.model_fields)).to_pylist()
            # What a broken file raises is whatever its reader runs into.
            except Exception as err:
                reason = shortened(" ".join(str(err).split())) or type(err).__name__
                raise SourceError(f"{self.annotations}: not a Parquet file ({reason})") from None

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read row by row."""
        for number, data in enumerate(self._table()):
            item = parse_raw(_Item, data, report, f"row {number}")
            if item is None:
                continue

            sample = self.choice(
                report,
                f"videomme/{item.question_id}",
                f"{item.videoID}.mp4",
                item.question,
                # Each option carries its own letter: "A. Apples."
                [text.removeprefix(f"{letter}.") for letter, text in zip(LETTERS, item.options)],
                LETTERS.find(item.answer) if len(item.answer) == 1 else -1,
                tags={name: getattr(item, name) for name in ("duration", "domain", "sub_category", "task_type")},
            )
            if sample is not None:
                yield sample
