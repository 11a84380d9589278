"""Sentences about the same media, with what was read of these shared: what every backbone must answer as one by one."""

from dataclasses import replace

import pytest
import torch
from conftest import BACKBONES, CLOSE, prompt, user

from spacevllm_plugin.inference.engine import row_item
from spacevllm_plugin.inference.grounding import _generate, _padded, ground_batch, sharing
from spacevllm_plugin.inference.prefix import prefix_key, read_prefix, suffix_inputs


# Of different lengths in every tokenizer.
QUESTIONS = ("Where?", 'When and where does this happen: "the red circle moves to the left"?', "Who moves then?")
NEW_TOKENS = 8


@pytest.fixture
def engine(engine):
    """Those of other packages may not say that they can."""
    if not engine.model.shares_prefixes:
        pytest.skip("reads each row by itself")

    return engine


def alone(engine, item):
    return _generate(engine.model, engine.processor.tokenizer, _padded(engine.prompter, [item]), NEW_TOKENS)[0]


def behind_one_prefix(engine, items):
    prefix = read_prefix(engine.model, engine.prompter, items[0])
    inputs = suffix_inputs(engine.prompter, prefix, items)
    return _generate(engine.model, engine.processor.tokenizer, inputs, NEW_TOKENS)


def assert_same(engine, items):
    assert len({prefix_key(engine.prompter, item) for item in items}) == 1
    for (text, boxes), item in zip(behind_one_prefix(engine, items), items, strict=True):
        expected_text, expected = alone(engine, item)
        assert text == expected_text
        assert torch.allclose(boxes, expected, **CLOSE)


def about(engine, media, tags, images=(), videos=()):
    media = {"images": [media[name] for name in images], "videos": [media[name] for name in videos]}
    return [prompt(engine, tags + text, **media) for text in QUESTIONS]


@pytest.mark.parametrize(
    "tags, images, videos",
    [
        ("<video>", (), ("five",)),
        ("<image>", ("image",), ()),
        ("<video>and <image>and <video>", ("image",), ("two", "portrait")),
        ("<video>", (), ("frames",)),
    ],
)
def test_ragged_sentences_about_the_same_media(engine, media, tags, images, videos):
    assert_same(engine, about(engine, media, tags, images, videos))


def test_one_sentence_alone_and_many_of_the_same_length(engine, media):
    items = about(engine, media, "<video>", videos=("five",))
    assert_same(engine, items[:1])
    assert_same(engine, [items[1]] * 3)


def test_the_second_turn_of_a_conversation_shares_with_the_first(engine, media):
    """Its text is longer, but begins alike; the caption of the queries is that of their own turn."""
    first = [user("<video>Where is the dog?")]
    second = [*first, {"role": "assistant", "content": "Here."}, user("And when does it leave?")]
    assert_same(engine, [prompt(engine, turns, videos=[media["five"]]) for turns in (first, second)])


def test_media_in_two_turns_are_in_the_prefix_with_the_text_between_them(engine, media):
    turns = [user("<video>Where is the dog?"), {"role": "assistant", "content": "Here."}]
    items = [
        prompt(engine, [*turns, user(f"<video>{text}")], videos=[media["five"], media["two"]]) for text in QUESTIONS
    ]
    assert_same(engine, items)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("options", [{"presence_head": True}, {"flash_attn": "disabled"}], ids=["presence", "eager"])
def test_with_a_presence_head_and_in_eager_attention(make_engine, media, backbone, options):
    engine = make_engine(backbone, **options)
    if not engine.model.shares_prefixes:
        pytest.skip("reads each row by itself")

    items = about(engine, media, "<video>", videos=("five",))
    assert_same(engine, items)
    if "presence_head" in options:
        assert read_prefix(engine.model, engine.prompter, items[0]).earlier is not None


def test_a_sentence_sees_the_prefix_and_itself_alone(engine, media):
    """Guards the tests above: whatever else stands in the batch, the answer to one sentence is the same."""
    items = about(engine, media, "<video>", videos=("five",))
    (_, first), *_ = behind_one_prefix(engine, items)
    (_, again), *_ = behind_one_prefix(engine, [items[0], items[2], items[2], items[1]])
    assert torch.allclose(first, again, **CLOSE)
    boxes = [boxes for _, boxes in behind_one_prefix(engine, items)]
    assert min((boxes[0] - other).abs().max() for other in boxes[1:]) > 1e-4


def test_a_prefix_is_read_as_often_as_one_likes_and_stays_as_it_was(engine, media):
    items = about(engine, media, "<video>", videos=("five",))
    prefix = read_prefix(engine.model, engine.prompter, items[0])
    before = [tensor.clone() for tensor in prefix._tensors()]
    for some in (items, items[:1], items):
        inputs = suffix_inputs(engine.prompter, prefix, some)
        _generate(engine.model, engine.processor.tokenizer, inputs, NEW_TOKENS)

    assert all(torch.equal(a, b) for a, b in zip(before, prefix._tensors(), strict=True))
    assert prefix.nbytes == sum(tensor.nbytes for tensor in before) > prefix.states.nbytes


def test_a_batch_is_grouped_by_video_and_answered_in_order(engine, synthetic_set):
    """Rows of all tasks in any order: those about the same video or image share, and all come out as one by one."""
    rows = [synthetic_set.of(task, index) for index in (0, 1) for task in ("stvg", "rec", "qa", "vtg")]
    rows += [rows[0].model_copy(update={"id": "again"})]
    items = [row_item(engine, row, synthetic_set.folder) for row in rows]
    shared, apart = sharing(engine.model, engine.prompter, items)
    assert shared and sorted(sum(shared, apart)) == list(range(len(rows)))
    for places in shared:
        assert len({str(rows[place].videos or rows[place].images) for place in places}) == 1

    together = ground_batch(engine.model, engine.prompter, items, NEW_TOKENS, rows_at_once=2)
    assert [prediction.id for prediction in together] == [row.id for row in rows]
    for item, prediction in zip(items, together, strict=True):
        (expected,) = ground_batch(engine.model, engine.prompter, [item], NEW_TOKENS)
        assert prediction.text == expected.text and prediction.frames == expected.frames
        if expected.boxes is not None:  # as they are rounded
            assert torch.allclose(torch.tensor(prediction.boxes), torch.tensor(expected.boxes), atol=0.0101)


def test_other_frames_other_text_before_or_no_media_share_nothing(engine, media):
    five = prompt(engine, "<video>Where?", videos=[media["five"]])
    fewer = replace(five, plans=[replace(five.plans[0], groups=five.plans[0].groups[::-1])])
    others = [
        prompt(engine, "<video>Where?", videos=[media["two"]]),
        prompt(engine, "In it: <video>Where?", videos=[media["five"]]),
        prompt(engine, "Where?"),
        prompt(engine, "Where?"),
        fewer,
    ]
    assert sharing(engine.model, engine.prompter, [five, *others]) == ([], list(range(6)))


def test_flash_attention_reads_row_by_row(engine, media, monkeypatch):
    """It takes no mask; the room's other limits come out at the same place."""
    items = about(engine, media, "<video>", videos=("five",))
    assert engine.model.shares_prefixes
    monkeypatch.setattr(engine.model.config.get_text_config(), "_attn_implementation", "flash_attention_2")
    assert not engine.model.shares_prefixes
    assert sharing(engine.model, engine.prompter, items) == ([], [0, 1, 2])


def test_a_room_that_cannot_says_so(engine, media, monkeypatch):
    monkeypatch.setattr(type(engine.model), "shares_prefixes", False)
    assert sharing(engine.model, engine.prompter, about(engine, media, "<video>", videos=("five",)))[0] == []
