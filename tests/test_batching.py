"""Requests to chat and API that wait at the same time are answered together, each as it is alone."""

import asyncio
import io
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import write_image, write_video
from PIL import Image
from runs import TEMPLATES
from test_api import cut_video

from spacevllm_plugin.data.prompt_rules import PromptError
from spacevllm_plugin.data.reply import split_block
from spacevllm_plugin.data.video import MediaError
from spacevllm_plugin.integration.batching import may_share


TOOLS = '[{"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}]'


def make_chat(tiny_base, backbone, **more):
    from llamafactory.chat import ChatModel

    torch.manual_seed(0)  # the fresh heads'
    given = {"model_name_or_path": str(tiny_base(backbone)), "template": TEMPLATES[backbone], "video_maxlen": 6}
    return ChatModel({**given, "infer_dtype": "float32", "max_new_tokens": 6, "do_sample": False, **more})


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen3_5", "llava_onevision"])
def engine(request, tiny_base):
    return make_chat(tiny_base, request.param, max_batch=16).engine


@pytest.fixture(scope="module")
def qwen(tiny_base):
    """An engine that answers four at once."""
    return make_chat(tiny_base, "qwen3_vl", max_batch=4).engine


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos of different lengths and sizes."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(folder / f"{i}.mp4", 2 + i, 48 + 16 * (i % 2), first=10 * i) for i in range(6)]


def question(text="When and where?", videos=None, **more):
    return {"messages": [{"role": "user", "content": text}], "videos": videos, **more}


async def ask(engine, request):
    return await engine.chat(**{**request, "messages": [dict(message) for message in request["messages"]]})


async def alone(engine, request):
    """A request's answer, or its error, when there is no other."""
    (outcome,) = await asyncio.gather(ask(engine, request), return_exceptions=True)
    return outcome


class Turn:
    """While it is held, requests to an engine wait; all those of the block are there at its end."""

    def __init__(self, engine):
        self.engine = engine

    async def __aenter__(self):
        await self.engine.semaphore.acquire()

    async def __aexit__(self, *_):
        self.engine.semaphore.release()


def run(engine, work):
    """What a coroutine returns, in an event loop that ends when all turns have."""

    async def to_the_end():
        engine.semaphore = asyncio.Semaphore(1)  # one that has made somebody wait belongs to that event loop
        result = await work
        while engine.batches is not None and engine.batches._turns:
            await asyncio.sleep(0.002)

        return result

    return asyncio.run(asyncio.wait_for(to_the_end(), 300))


async def waiting(engine, count):
    while len(engine.batches._waiting) != count:
        await asyncio.sleep(0.002)


async def at_once(engine, requests):
    """Outcomes of requests that all wait before the first of them is answered."""
    async with Turn(engine):
        tasks = [asyncio.ensure_future(ask(engine, request)) for request in requests]
        await waiting(engine, len(requests))

    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def rows(monkeypatch):
    """`rows(engine)`: a list to which each generation adds how many prompts it has."""

    def watch(engine):
        seen, generate = [], engine.model.generate

        def counted(**kwargs):
            ids = kwargs.get("input_ids", kwargs.get("inputs"))
            seen.append(len(ids))
            return generate(**kwargs)

        monkeypatch.setattr(engine.model, "generate", counted)
        return seen

    return watch


def same(found, expected):
    """Whether two answers are the same: of boxes, which are rounded to a tenth of a pixel, up to that."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        (text, tubes), (other_text, other_tubes) = split_block(one.response_text), split_block(other.response_text)
        assert text == other_text
        numbers = [(each.response_length, each.prompt_length, each.finish_reason) for each in (one, other)]
        assert numbers[0] == numbers[1]
        assert (tubes is None) == (other_tubes is None)
        for tube, other_tube in zip(tubes or [], other_tubes or [], strict=True):
            boxes = [part.get("boxes") or [part.get("box")] for part in (tube.model_dump(), other_tube.model_dump())]
            assert torch.allclose(*map(torch.tensor, boxes), atol=0.1001, rtol=0)
            rest = [part.model_dump(exclude={"boxes", "box"}) for part in (tube, other_tube)]
            assert rest[0] == rest[1]

    return True


def mixed(clips, folder):
    """Requests of every kind that may go together."""
    pictures = [Image.open(write_image(folder / f"{i}.png", 90 + i, 48 + 16 * i)).convert("RGB") for i in range(2)]
    turns = [
        {"role": "user", "content": "<video>Where?"},
        {"role": "assistant", "content": "There."},
        {"role": "user", "content": "And <image>here, <video>now?"},
    ]
    return [
        *(question(f"Question {i}: where?" + i * " And?", [clip]) for i, clip in enumerate(clips[:4])),
        question("Another about the first.", clips[:1]),
        question("Where is the circle?", images=pictures[:1]),
        question("And in these?", images=pictures),
        question("Hello"),
        question("Hello", system="Be brief."),
        question("Look.", clips[4:5], tools=TOOLS),
        {"messages": turns, "images": pictures[1:], "videos": clips[4:6]},
    ]


def test_every_answer_is_the_one_it_gets_alone(engine, clips, tmp_path, rows):
    requests = mixed(clips, tmp_path)

    async def both():
        expected = [await alone(engine, request) for request in requests]
        seen = rows(engine)
        return expected, await at_once(engine, requests), seen

    expected, found, seen = run(engine, both())
    assert all(same(*pair) for pair in zip(found, expected))
    assert len({answer[0].response_text for answer in expected}) == len(requests)
    # Two are about one video; all others make one batch.
    assert sorted(seen) == [2, len(requests) - 2]


@pytest.mark.parametrize("is_end", [False, True], ids=["stops", "is the end"])
def test_a_row_ends_where_it_ends_alone(qwen, clips, monkeypatch, request, is_end):
    """Some answers end before others, by the token that is the end, or by another one that stops them."""
    requests = [question(f"Question {i}?", [clips[i]]) for i in range(4)]
    tokenizer, generate, written = qwen.tokenizer, qwen.model.generate, []

    def noted(**kwargs):
        output = generate(**kwargs)
        written.append(output[0, kwargs["inputs"].shape[1] :].tolist())
        return output

    async def both():
        with monkeypatch.context() as patch:
            patch.setattr(qwen.model, "generate", noted)
            for each in requests:
                await alone(qwen, each)

        early = next(token for ids in written for token in ids[1:] if not all(token in other for other in written))
        if is_end:
            request.addfinalizer(partial(setattr, tokenizer, "eos_token", tokenizer.eos_token))
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(early)
        else:
            stops = [tokenizer.eos_token_id, early]
            monkeypatch.setattr(qwen.template, "get_stop_token_ids", lambda _: stops)

        return [await alone(qwen, each) for each in requests], await at_once(qwen, requests)

    expected, found = run(qwen, both())
    assert all(same(*pair) for pair in zip(found, expected))
    assert len({answer[0].response_length for answer in expected}) > 1
    assert {answer[0].finish_reason for answer in expected} == ({"stop", "length"} if is_end else {"length"})


def test_what_is_wrong_with_one_is_said_to_that_one_alone(qwen, clips, tmp_path, rows):
    (tmp_path / "no.mp4").write_bytes(b"no video" * 100)
    uploaded = Path(clips[1]).read_bytes()
    requests = [
        question(videos=clips[:1]),
        question(videos=[io.BytesIO(cut_video(tmp_path))]),
        question(videos=[io.BytesIO(uploaded)]),
        question("Where is <|staq|>?", clips[2:3]),
        question(videos=[str(tmp_path / "no.mp4")]),
        question(videos=clips[3:4]),
    ]

    async def both():
        good = [await alone(qwen, question(videos=[clip])) for clip in (clips[0], clips[1], clips[3])]
        seen = rows(qwen)
        return good, await at_once(qwen, requests), seen

    expected, found, seen = run(qwen, both())
    bad = [found.pop(place) for place in (4, 3, 1)]
    assert all(same(*pair) for pair in zip(found, expected))
    assert [type(error) for error in bad] == [MediaError, PromptError, MediaError]
    # Where the server keeps an upload is nobody's business.
    assert str(bad[2]).startswith("video_0_of_the_request: the file ends before frame")
    assert sum(seen) == 3  # no answer was generated twice


def test_more_than_fit_are_answered_in_halves(qwen, clips, monkeypatch):
    requests = [question(f"Question {i}?", [clips[i]]) for i in range(4)]
    generate, tried = qwen.model.generate, []

    def small(**kwargs):
        tried.append(len(kwargs.get("input_ids", kwargs.get("inputs"))))
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("of 3 GiB")

        return generate(**kwargs)

    async def both():
        expected = [await alone(qwen, request) for request in requests]
        monkeypatch.setattr(qwen.model, "generate", small)
        return expected, await at_once(qwen, requests)

    expected, found = run(qwen, both())
    assert tried == [4, 2, 2] and all(same(*pair) for pair in zip(found, expected))


def test_turns_are_of_max_batch_at_most_and_in_order(qwen, clips, rows):
    seen, order = rows(qwen), []

    async def numbered(number):
        await ask(qwen, question(f"Question {number}?", [clips[number % 6]]))
        order.append(number)

    async def nine():
        async with Turn(qwen):
            tasks = [asyncio.ensure_future(numbered(number)) for number in range(9)]
            await waiting(qwen, 9)

        await asyncio.gather(*tasks)

    run(qwen, nine())
    assert seen == [4, 4, 1] and [set(order[:4]), set(order[4:8]), order[8]] == [{0, 1, 2, 3}, {4, 5, 6, 7}, 8]


def test_only_those_that_are_generated_alike_go_together(qwen, clips, rows):
    hot = {"do_sample": True, "temperature": 0.7}
    requests = [question(f"Question {i}?", [clips[i]], **(hot if i % 2 else {})) for i in range(6)]
    requests[4]["max_new_tokens"] = 3
    seen = rows(qwen)
    found = run(qwen, at_once(qwen, requests))
    assert seen == [2, 3, 1]
    assert all(len(answer) == 1 and answer[0].response_length <= 6 for answer in found)
    assert found[4][0].response_length <= 3


def test_one_of_one_choice_is_the_same_drawn_together(qwen, clips, rows):
    """Sampling goes together, too: each row draws from its own scores."""
    requests = [question(f"Question {i}?", [clips[i]], do_sample=True, temperature=1.0, top_k=1) for i in range(4)]

    async def both():
        expected = [await alone(qwen, request) for request in requests]
        seen = rows(qwen)
        return expected, await at_once(qwen, requests), seen

    expected, found, seen = run(qwen, both())
    assert seen == [4] and all(same(*pair) for pair in zip(found, expected))


@pytest.mark.parametrize(
    ("asked", "default"),
    [
        ({"num_return_sequences": 2}, {}),
        ({"repetition_penalty": 1.2}, {}),
        ({}, {"repetition_penalty": 1.1}),
        ({}, {"num_beams": 3}),
        ({"max_length": 100}, {}),
        ({}, {"max_length": 100}),
        ({"seed": 1}, {}),
    ],
)
def test_some_stay_alone(asked, default):
    assert may_share({}, {"max_new_tokens": 5, "repetition_penalty": 1.0, "num_beams": 1})
    assert may_share({"max_new_tokens": 5, "num_return_sequences": 1}, {"max_length": 100})
    assert not may_share(asked, default)


def test_streams_and_several_choices_take_their_turns_between(qwen, clips, rows):
    async def stream(request):
        messages = [dict(message) for message in request["messages"]]
        return "".join([piece async for piece in qwen.stream_chat(messages, videos=request["videos"])])

    async def all_of_them():
        expected = [await alone(qwen, question(videos=[clip])) for clip in clips[:3]]
        seen = rows(qwen)
        async with Turn(qwen):
            tasks = [asyncio.ensure_future(ask(qwen, question(videos=[clip]))) for clip in clips[:2]]
            tasks.append(asyncio.ensure_future(stream(question(videos=clips[2:3]))))
            tasks.append(asyncio.ensure_future(ask(qwen, question(videos=clips[3:4], num_return_sequences=3))))
            await waiting(qwen, 2)

        return expected, await asyncio.gather(*tasks), seen

    expected, (*found, streamed, three), seen = run(qwen, all_of_them())
    assert all(same(*pair) for pair in zip(found, expected))
    assert split_block(streamed) == split_block(expected[2][0].response_text)
    assert len(three) == 3 and sorted(seen) == [1, 1, 2]


def test_a_client_that_goes_away_does_no_harm(qwen, clips, monkeypatch, rows):
    """Two of them before their turn, one while its batch is generated, its upload with it."""
    requests = [question(f"Question {i}?", [clips[i]]) for i in range(5)]
    requests[3]["videos"] = [io.BytesIO(Path(clips[3]).read_bytes())]
    generate, begun, go_on = qwen.model.generate, threading.Event(), threading.Event()

    def held(**kwargs):
        begun.set()
        assert go_on.wait(60)
        return generate(**kwargs)

    async def both():
        expected = [await alone(qwen, request) for request in requests[:2]]
        monkeypatch.setattr(qwen.model, "generate", held)
        seen = rows(qwen)
        async with Turn(qwen):
            tasks = [asyncio.ensure_future(ask(qwen, request)) for request in requests]
            await waiting(qwen, 5)
            for each in (tasks[2], tasks[4]):
                each.cancel()

            await asyncio.wait({tasks[2], tasks[4]})

        await asyncio.to_thread(begun.wait, 60)
        tasks[3].cancel()
        outcomes = await asyncio.gather(*tasks[2:], return_exceptions=True)
        go_on.set()
        return expected, outcomes, await asyncio.gather(*tasks[:2]), seen

    expected, gone, found, seen = run(qwen, both())
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in gone)
    assert seen == [3] and all(same(*pair) for pair in zip(found, expected))
    assert not qwen.batches._waiting


def test_a_request_waits_for_others_if_that_is_wanted(tiny_base, clips, rows, monkeypatch):
    engine = make_chat(tiny_base, "qwen3_vl", max_batch=3, max_wait_ms=60_000).engine
    seen, looks, time_left = rows(engine), [], engine.batches._time_left
    monkeypatch.setattr(engine.batches, "_time_left", lambda: looks.append(1) or time_left())

    async def one_after_the_other():
        tasks = []
        for count in range(1, 4):
            tasks.append(asyncio.ensure_future(ask(engine, question(videos=clips[:1]))))
            if count < 3:
                await waiting(engine, count)
                await asyncio.sleep(0.02)

        return await asyncio.gather(*tasks)

    first, *others = run(engine, one_after_the_other())  # they did not wait for a minute: three are enough
    assert seen == [3] and all(same(first, other) for other in others)
    assert (
        len(looks) <= 5
    )  # it is told when to look: at first and at the second and third; the others' turns find nothing
    monkeypatch.setattr(engine.batches, "_max_wait", 0.01)
    assert same(run(engine, ask(engine, question(videos=clips[:1]))), first)
    assert seen == [3, 1]


def test_with_kept_prefixes_each_medium_is_read_once(tiny_base, clips, rows, monkeypatch):
    engine = make_chat(tiny_base, "qwen3_vl", max_batch=16, prefix_cache_gb=1).engine
    requests = [question(f"Question {i}?", [clips[i % 2]]) for i in range(5)] + [question("Hello"), question("Bye")]
    prompter, read = type(engine.template.mm_plugin.prompter(engine.processor)), []
    model_inputs = prompter.model_inputs
    monkeypatch.setattr(prompter, "model_inputs", lambda *args: read.append(1) or model_inputs(*args))

    async def twice():
        seen = rows(engine)
        first = await at_once(engine, requests)
        second = await at_once(engine, requests)
        return first, second, [await alone(engine, request) for request in requests], seen

    *found, expected, seen = run(engine, twice())
    assert all(same(*pair) for answers in found for pair in zip(answers, expected))
    assert len(read) == 2 and sorted(seen[:3]) == sorted(seen[3:6]) == [2, 2, 3]


def test_one_by_one_if_that_is_wanted_and_for_templates_of_others(tiny_base, clips, tmp_path, rows):
    from llamafactory.chat import ChatModel

    from spacevllm_plugin.backbones.tiny import make_tiny

    engine = make_chat(tiny_base, "qwen3_vl", max_batch=1).engine
    seen = rows(engine)

    async def two():
        return await asyncio.gather(*(ask(engine, question(videos=clips[:1])) for _ in range(2)))

    assert engine.batches is None and same(*run(engine, two())) and seen == [1, 1]
    make_tiny("qwen3_vl", tmp_path, merge_size=1)
    other = ChatModel({"model_name_or_path": str(tmp_path), "template": "qwen3_vl", "max_new_tokens": 2})
    assert other.engine.batches is None and other.chat([{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize(
    ("option", "says"),
    [({"max_batch": 0}, "max_batch must be at least 1"), ({"max_wait_ms": -1}, "max_wait_ms must not")],
)
def test_what_makes_no_sense_is_refused(tiny_base, option, says):
    with pytest.raises(ValueError, match=says):
        make_chat(tiny_base, "qwen3_vl", **option)
