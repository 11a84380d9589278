"""TempCompass."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .base import Raw, Report, Sample, option, parse_raw
from .questions import ASK_LETTER, ASK_YES_NO, QuestionSource
from .streams import json_entries


# How the right answer of each kind begins, and what is asked behind the question.
KINDS = {
    "multi-choice": (re.compile(r"([A-D])\b"), ASK_LETTER),
    "yes_no": (re.compile(r"(yes|no)\b", re.IGNORECASE), ASK_YES_NO),
}


class _Question(Raw):
    question: str
    answer: str


class _Video(Raw):
    dimensions: dict[str, list[_Question]]


@dataclass(kw_only=True)
class TempCompass(QuestionSource):
    """TempCompass, the questions with one right answer: multiple choice, or yes and no.

    `group` is the temporal dimension. Caption matching and captioning are not read.
    """

    name = "tempcompass"
    folder = "tempcompass"
    example = (
        "--annotations questions/multi-choice.json --kind multi-choice --out data_info/tempcompass/multi_choice.jsonl"
    )

    annotations: Path = option("multi-choice.json or yes_no.json", Path)
    kind: str = option("which of the two the file is", choices=tuple(KINDS))

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return f"tempcompass_{self.kind.replace('-', '_')}"

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read video by video."""
        begins, ask = KINDS[self.kind]
        for video, data in json_entries(self.annotations):
            raw = parse_raw(_Video, {"dimensions": data}, report, video)
            for dimension, questions in raw.dimensions.items() if raw else ():
                for number, item in enumerate(questions):
                    sample_id = f"tempcompass/{self.kind}/{video}/{dimension}/{number}"
                    right = begins.match(item.answer.strip())
                    if right is None:
                        report.drop("answer_not_among_options", f"{sample_id}: {item.answer}")
                        continue

                    text = item.question.strip()
                    if not text:
                        report.drop("no_question", sample_id)
                        continue

                    yield Sample(
                        id=sample_id,
                        task="qa",
                        query=text.splitlines()[0],
                        medium=f"{video}.mp4",
                        media=None,
                        target=None,
                        group=dimension,
                        # The options stand in the question already, one a line.
                        question=f"{text}\n{ask}",
                        reply=right.group(1),
                        tags={"kind": self.kind},
                    )
