"""Evaluation while training, and `do_predict`: few rows in memory, every row answered once, none lost."""

import json
import weakref
from collections import Counter
from functools import wraps

import pytest
import torch
from conftest import collate, user
from datasets import Dataset
from runs import arguments, write_data

from spacevllm_plugin.data.schema import PredictionRow
from spacevllm_plugin.inference.engine import Engine, row_media
from spacevllm_plugin.inference.predictor import ground_rows
from spacevllm_plugin.integration.eval_rows import Answer, EvalRows, GeneratedAnswers


TOKENS = 4


def eval_set(rows, folder):
    """Rows as they lie in a tokenised set; None for one of another format."""
    media = [row_media(row, folder) if row else ([], []) for row in rows]
    return EvalRows(
        Dataset.from_dict(
            {
                "annotation": [row and row.model_dump_json(exclude_none=True) for row in rows],
                "images": [images or None for images, _ in media],
                "videos": [videos or None for _, videos in media],
            }
        )
    )


@pytest.mark.parametrize("limit", [None, 3])
def test_only_one_batch_of_prompts_is_in_memory(tiny_base, synthetic_set, tmp_path, monkeypatch, limit):
    from llamafactory.train.tuner import run_exp

    make_item, made, most_alive = Engine.item, [], 0

    @wraps(make_item)
    def watched(self, *args, **kwargs):
        nonlocal most_alive
        item = make_item(self, *args, **kwargs)
        made.append(weakref.ref(item))
        most_alive = max(most_alive, sum(ref() is not None for ref in made))
        return item

    monkeypatch.setattr(Engine, "item", watched)
    data = write_data(tmp_path / "data", [row.model_dump(exclude_none=True) for row in synthetic_set.rows])
    run_exp(
        arguments(
            tiny_base("qwen3_vl"),
            data,
            tmp_path / "out",
            do_train=False,
            do_eval=True,
            eval_dataset="rows",
            media_dir=str(synthetic_set.folder),
            per_device_eval_batch_size=2,
            grounding_metrics_rows=limit,
        )
    )
    with_target = sum(row.task != "qa" for row in synthetic_set.rows)
    # Those about one video or image go together, and nothing else joins a batch that is full.
    together = max(Counter(str(row.videos or row.images) for row in synthetic_set.rows if row.task != "qa").values())
    assert most_alive <= 2 - 1 + together < with_target / 2
    assert len(made) == (limit or with_target)
    assert "eval_m_tIoU" in json.loads((tmp_path / "out" / "all_results.json").read_text())


def test_a_part_of_the_rows_is_evenly_spaced_through_every_task(synthetic_set):
    row, other = synthetic_set.of("stvg"), synthetic_set.of("vtg")
    rows = eval_set([row] * 60 + [None] * 5 + [synthetic_set.of("qa")] * 5 + [other] * 30, synthetic_set.folder)
    assert rows.grounding(None) == rows.grounding(1000) == [*range(60), *range(70, 100)]
    assert rows.grounding(6) == [0, 15, 30, 45, 70, 85]


def test_rows_of_one_id_are_scored_each_by_its_own_answer(synthetic_set):
    """Two sets of a mixture may use the same ids."""
    row, other = synthetic_set.of("stvg"), synthetic_set.of("stvg", 1).model_copy(update={"id": "the same"})
    row = row.model_copy(update={"id": "the same"})
    rows = eval_set([row, other], synthetic_set.folder)

    def answer(position, truth):
        target = truth.target
        prediction = PredictionRow(
            id=truth.id, span_seconds=target.span_seconds, frames=target.frames, boxes=target.boxes
        )
        return Answer(position, "stvg", prediction.model_dump_json(exclude_none=True))

    assert rows.scores([answer(0, row), answer(1, other)])["m_vIoU"] == pytest.approx(1, abs=0.01)
    assert rows.scores([answer(0, other), answer(1, row)])["m_vIoU"] < 0.9


def test_predictions_are_made_of_the_generation_that_has_run(make_engine, synthetic_set):
    """As the data loaders of two processes deal the batches, with rows repeated at the end."""
    engine = make_engine("qwen3_vl")
    turns = synthetic_set.of("stvg", 1)
    turns = turns.model_copy(
        update={"messages": [*turns.messages, turns.messages[0].model_copy(update={"content": "And then?"})]}
    )
    rows = [synthetic_set.of("stvg"), synthetic_set.of("rec"), turns, None, synthetic_set.of("qa")]
    data = eval_set(rows, synthetic_set.folder)
    located = [(row, *row_media(row, synthetic_set.folder)) if row else None for row in rows]
    items = [engine.row_item(*found) if found else engine.item("", "qa", [user("Hello")], [], []) for found in located]
    # LLaMA-Factory asks the last question of a conversation, but the target is about the first.
    conversation = [message.model_dump() for message in turns.messages]
    items[2] = engine.item(turns.id, "stvg", conversation, *located[2][1:], turns.media)
    generate, prompts = engine.model.generate, []

    def counted(input_ids, **kwargs):
        prompts.append(len(input_ids))
        return generate(input_ids=input_ids, **kwargs)

    answers = []
    engine.model.generate = counted
    try:
        for number, batches in enumerate([[(0, 1), (4, 0)], [(2, 3), (1, 2)]]):
            own = GeneratedAnswers(engine, data, 2, (number, 2), TOKENS)
            for batch in batches:
                inputs, sink = collate(engine, [items[place] for place in batch], extra=number), []
                output = engine.model.generate(**inputs, **own.options, box_sink=sink)
                own.add(inputs, output, sink)

            answers += own.answers
    finally:
        del engine.model.generate

    assert prompts == [2, 2, 2, 1, 2]  # the conversation once more, alone
    answers.sort()
    assert [answer.position for answer in answers] == [0, 1, 2, 4]
    expected = ground_rows(engine, [found for found in located if found], TOKENS)
    for answer, row in zip(answers, expected, strict=True):
        found = PredictionRow.model_validate_json(answer.line)
        assert (found.id, found.text, found.status, found.frames) == (row.id, row.text, row.status, row.frames)
        assert torch.tensor(found.boxes or []).allclose(torch.tensor(row.boxes or []), atol=0.011)
