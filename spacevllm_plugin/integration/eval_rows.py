"""The rows of an evaluation set, each read when its turn comes: which are grounded, their answers, the scores."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from ..data.schema import TASKS, AnnotationRow, PredictionRow, dump_row
from ..data.video import MediaError
from ..evaluation import evaluate
from ..inference.batches import media_batches
from ..inference.engine import Engine
from ..inference.grounding import greedy_options, make_prediction, split_answers
from ..inference.predictor import ground_rows


GROUNDING_TASKS = tuple(task for task in TASKS if task != "qa")


class Answer(NamedTuple):
    """What was answered at one place of the set: all that is kept of a row.

    Attributes:
        position: The row's place; ids may occur twice in a mixture.
        task: The row's task.
        line: The prediction row, as JSON.
    """

    position: int
    task: str
    line: str


class EvalRows:
    """An evaluation set as LLaMA-Factory tokenised it; in memory there are never more rows of it than one batch.

    Args:
        dataset: With the columns `annotation`, `images` and `videos`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset.select_columns(["annotation", "images", "videos"])

    def __len__(self) -> int:
        return len(self.dataset)

    def grounding(self, limit: int | None) -> list[int]:
        """Positions of the rows with a target; of more than `limit` a part, the same at every call.

        It is evenly spaced through the rows of each task, and has the tasks in the whole's proportions.
        """
        found: dict[str, list[int]] = {task: [] for task in TASKS}
        for position, example in enumerate(self.dataset.select_columns("annotation")):
            if example["annotation"]:
                found[json.loads(example["annotation"])["task"]].append(position)

        positions = [position for task in GROUNDING_TASKS for position in found[task]]
        count = len(positions) if limit is None else min(limit, len(positions))
        return sorted(positions[i * len(positions) // count] for i in range(count))

    def batches(self, positions: list[int], size: int) -> Iterator[list[int]]:
        """The positions in batches, those of rows with the same media together, see `media_batches`."""
        shown = self.dataset.select_columns(["images", "videos"])

        def media(position: int) -> Any:
            example = shown[position]
            media = tuple(example["images"] or ()), tuple(example["videos"] or ())
            return media if any(media) else None

        return media_batches(positions, size, media)

    def read(self, position: int) -> tuple[AnnotationRow, list[Any], list[Any]] | None:
        """A row with its images and videos; None where the row came in another format than ours."""
        example = self.dataset[position]
        if not example["annotation"]:
            return None

        row = AnnotationRow.model_validate_json(example["annotation"])
        return row, example["images"] or [], example["videos"] or []

    def ground(
        self, engine: Engine, positions: list[int], max_new_tokens: int, rows_at_once: int | None = None
    ) -> list[Answer]:
        """Ground one batch of our rows, greedily; one whose media cannot be read fails alone."""
        rows = [self.read(position) for position in positions]
        predictions = ground_rows(engine, rows, max_new_tokens, rows_at_once)
        return [
            Answer(position, row.task, dump_row(prediction))
            for position, (row, *_), prediction in zip(positions, rows, predictions)
        ]

    def scores(self, answers: Iterable[Answer]) -> dict[str, float]:
        """The same numbers that `spacevllm-cli evaluate` gives for the rows answered; stvg without a prefix."""
        by_task: dict[str, list[Answer]] = {}
        for answer in answers:
            by_task.setdefault(answer.task, []).append(answer)

        metrics: dict[str, float] = {}
        for task in GROUNDING_TASKS:
            if task not in by_task:
                continue

            # By position, so that an id which occurs twice does not end a training.
            rows = (_renamed(self.read(answer.position)[0], answer.position) for answer in by_task[task])
            predictions = (
                _renamed(PredictionRow.model_validate_json(answer.line), answer.position) for answer in by_task[task]
            )
            scores = evaluate(task, rows, predictions).report()["groups"]["all"]
            prefix = "" if task == "stvg" else f"{task}_"
            metrics.update({f"{prefix}{name}": value for name, value in scores.items() if isinstance(value, float)})

        return metrics


def _renamed(row: Any, position: int) -> Any:
    return row.model_copy(update={"id": str(position)})


class GeneratedAnswers:
    """Makes prediction rows of what LLaMA-Factory's own `predict` generates, so that nothing is generated twice.

    Args:
        engine: The model.
        rows: The set that is predicted.
        batch_size: Rows of a batch.
        share: This process's number and the number of processes; they take batches in turn, as the data loader has it.
        max_new_tokens: Longest answer, in tokens.
    """

    def __init__(
        self, engine: Engine, rows: EvalRows, batch_size: int, share: tuple[int, int], max_new_tokens: int
    ) -> None:
        self.engine = engine
        self.rows = rows
        self.batch_size = batch_size
        self.share = share
        self.max_new_tokens = max_new_tokens
        self.answers: list[Answer] = []
        self._batches = 0

    @property
    def options(self) -> dict[str, Any]:
        """What `generate` is to be told."""
        return greedy_options(self.engine.processor.tokenizer, self.max_new_tokens)

    def add(self, inputs: dict[str, torch.Tensor], output: torch.Tensor, sink: list[torch.Tensor]) -> None:
        """Take the next batch of this process.

        Args:
            inputs: The batch.
            output: (batch, sequence + new tokens), what `generate` returned.
            sink: Its `box_sink`.
        """
        number, processes = self.share
        begin = (self._batches * processes + number) * self.batch_size
        self._batches += 1
        input_ids, attended = inputs["input_ids"], inputs["attention_mask"].bool()
        answers = split_answers(self.engine.processor.tokenizer, input_ids, output, sink)
        prompts = [ids[mask].tolist() for ids, mask in zip(input_ids, attended)]
        # Behind the last row, some are repeated for the sake of equal batches.
        for position, prompt, answer in zip(range(begin, len(self.rows)), prompts, answers):
            found = self.rows.read(position)
            if found is not None:
                self.answers.append(self._answer(position, found, prompt, answer))

    def _answer(self, position: int, found: tuple, prompt: list[int], answer: tuple[str, Any]) -> Answer:
        row = found[0]
        try:
            item = self.engine.row_item(*found)
            asked = prompt == item.token_ids
        except MediaError:
            asked = False

        if asked:
            return Answer(position, row.task, dump_row(make_prediction(item, *answer)))

        # LLaMA-Factory asked another question of the conversation, or `bad_media: skip` has emptied the row.
        return self.rows.ground(self.engine, [position], self.max_new_tokens)[0]
