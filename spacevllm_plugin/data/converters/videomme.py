"""Video-MME."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read row by row."""
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(existing(self.annotations, "--annotations"))
        except (pyarrow.ArrowException, OSError) as err:
            raise SourceError(f"{self.annotations}: not a Parquet file ({str(err).splitlines()[0]})") from None

        for number, data in enumerate(table.to_pylist()):
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
                LETTERS.find(item.answer) if item.answer else -1,
                tags={name: getattr(item, name) for name in ("duration", "domain", "sub_category", "task_type")},
            )
            if sample is not None:
                yield sample
