"""EgoSchema."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, Field

from .base import Raw, Report, Sample, Whole, option, parse_raw
from .questions import QuestionSource
from .streams import json_entries, json_items


class _Item(Raw):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    q_uid: str
    question: str
    option_0: str = Field(validation_alias="option 0")
    option_1: str = Field(validation_alias="option 1")
    option_2: str = Field(validation_alias="option 2")
    option_3: str = Field(validation_alias="option 3")
    option_4: str = Field(validation_alias="option 4")

    @property
    def options(self) -> list[str]:
        return [self.option_0, self.option_1, self.option_2, self.option_3, self.option_4]


class _Answer(Raw):
    right: Whole


@dataclass(kw_only=True)
class EgoSchema(QuestionSource):
    """EgoSchema: five options on three minutes of first-person video.

    Only the questions whose answer is public (the subset of 500) become rows; the others are counted as withheld.
    """

    name = "egoschema"
    folder = "egoschema"
    example = "--annotations questions.json --answers subset_answers.json --out data_info/egoschema/subset.jsonl"

    annotations: Path = option("questions.json", Path)
    answers: Path = option("subset_answers.json: index of the right option for each question", Path)

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return "egoschema_subset"

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read question by question."""
        answers = dict(json_entries(self.answers))
        for number, data in enumerate(json_items(self.annotations)):
            item = parse_raw(_Item, data, report, f"item {number}")
            if item is None:
                continue

            sample_id = f"egoschema/{item.q_uid}"
            if item.q_uid not in answers:
                report.drop("answer_withheld", sample_id)
                continue

            answer = parse_raw(_Answer, {"right": answers[item.q_uid]}, report, f"{sample_id}: answer")
            if answer is None:
                continue

            video = f"{item.q_uid}.mp4"
            sample = self.choice(report, sample_id, video, item.question, item.options, answer.right)
            if sample is not None:
                yield sample
