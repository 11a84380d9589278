"""`prefix_cache_gb`: chat and API answer a further question about a video from what they have read of it."""

import asyncio
import shutil
from collections import OrderedDict

import pytest
import torch
from conftest import prompt, write_image, write_video
from runs import TEMPLATES
from transformers import GenerationConfig

from spacevllm_plugin.inference.prefix import read_prefix
from spacevllm_plugin.inference.prefix_cache import PrefixCache, content_key
from spacevllm_plugin.integration.options import RunOptions
from spacevllm_plugin.integration.prefix_cache import cache_of, media_inputs


ASKED = ('When and where does this happen: "the red circle moves"?', "What else?")


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine("qwen3_vl")


@pytest.fixture(scope="module")
def prefixes(engine, media):
    """Three prefixes of the same size."""
    item = prompt(engine, "<video>Where?", videos=[media["five"]])
    return [read_prefix(engine.model, engine.prompter, item) for _ in range(3)]


def test_what_was_used_last_is_kept_within_the_limit(prefixes):
    size = prefixes[0].nbytes
    cache, read = PrefixCache(2 * size), []

    def get(number):
        return cache.get(number, lambda: read.append(number) or prefixes[number])

    for number in (0, 1, 0, 2, 0, 1):
        assert get(number) is prefixes[number]
        assert cache.nbytes == min(len(set(read)), 2) * size <= cache.most_bytes

    assert read == [0, 1, 2, 1]


def test_one_that_is_larger_than_the_limit_is_used_and_not_kept(prefixes):
    cache = PrefixCache(prefixes[0].nbytes - 1)
    assert [cache.get(0, lambda: prefixes[0]) for _ in range(2)] == prefixes[:1] * 2
    assert len(cache) == cache.nbytes == 0


def test_the_key_is_what_a_file_holds_not_its_name(engine, tmp_path):
    def key(name):
        return content_key(engine.prompter, prompt(engine, "<video>Where?", videos=[str(tmp_path / name)]))

    write_video(tmp_path / "a.mp4", 5)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    first = key("a.mp4")
    assert key("b.mp4") == first
    write_video(tmp_path / "a.mp4", 5, first=50)
    assert key("a.mp4") != first == key("b.mp4")


def test_the_key_of_images_and_frames_too(engine, tmp_path):
    def keys():
        image = prompt(engine, "<image>Where?", [str(tmp_path / "i.png")])
        frames = prompt(engine, "<video>Where?", videos=[[str(tmp_path / "i.png"), str(tmp_path / "j.png")]])
        return [content_key(engine.prompter, item) for item in (image, frames)]

    write_image(tmp_path / "i.png", 1)
    write_image(tmp_path / "j.png", 2)
    before = keys()
    write_image(tmp_path / "j.png", 3)
    assert keys()[0] == before[0] and keys()[1] != before[1]
    write_image(tmp_path / "i.png", 4)
    assert keys()[0] != before[0]


def test_the_key_has_the_settings_and_all_text_before_the_sentence(engine, make_engine, media):
    def key(engine, text="<video>Where?", system=None):
        messages = [{"role": "user", "content": text}]
        item = engine.item("x", "qa", messages, [], [media["five"]], system=system)
        return content_key(engine.prompter, item)

    first = key(engine)
    assert key(engine, "<video>Who is the dog?") == first
    others = [
        key(engine, "In it: <video>Where?"),
        key(engine, system="Be brief."),
        key(make_engine("qwen3_vl", video_maxlen=4)),
        key(make_engine("qwen3_vl", video_max_pixels=32 * 32)),
        key(make_engine("qwen3_vl", frame_sampling="fps")),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_none_without_the_option_or_where_a_room_cannot(engine, monkeypatch):
    assert cache_of(engine.model, 0) is None
    assert cache_of(engine.model, 1).most_bytes == 10**9 and cache_of(engine.model, 1) is cache_of(engine.model, 1)
    monkeypatch.setattr(type(engine.model), "shares_prefixes", False)
    assert cache_of(engine.model, 1) is None


def test_several_answers_to_one_prompt_are_read_in_full(engine, media):
    item = prompt(engine, "<video>Where?", videos=[media["five"]])
    cache = PrefixCache(10**9)
    several = GenerationConfig(do_sample=True, num_return_sequences=2)
    inputs = media_inputs(cache, engine.model, engine.prompter, item, several)
    assert "pixel_values_videos" in inputs and len(cache) == 0
    assert set(media_inputs(cache, engine.model, engine.prompter, item, GenerationConfig())) == {"past_key_values"}
    assert len(cache) == 1


def test_a_negative_size_is_refused(tiny_base):
    from llamafactory.hparams import get_infer_args

    given = {"model_name_or_path": str(tiny_base("qwen3_vl")), "template": TEMPLATES["qwen3_vl"]}
    with pytest.raises(ValueError, match="prefix_cache_gb must not be below 0"):
        get_infer_args({**given, "prefix_cache_gb": -1})


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen3_5", "llava_onevision"])
def chats(request, tiny_base):
    """Two chats with the same weights, without and with a cache."""
    from llamafactory.chat import ChatModel

    def chat(**more):
        torch.manual_seed(0)  # the fresh heads'
        return ChatModel(
            {
                "model_name_or_path": str(tiny_base(request.param)),
                "template": TEMPLATES[request.param],
                "infer_dtype": "float32",
                "max_new_tokens": 8,
                "do_sample": False,
                **more,
            }
        )

    return chat(), chat(prefix_cache_gb=1)


def ask(chat, text, video, stream=False):
    messages = [{"role": "user", "content": text}]
    if stream:
        return "".join(chat.stream_chat(messages, videos=[video]))

    return chat.chat(messages, videos=[video])[0].response_text


@pytest.fixture
def cache(chats):
    engine = chats[1].engine
    cache = cache_of(engine.model, RunOptions.on(engine.processor).training.prefix_cache_gb)
    cache._kept = OrderedDict()
    return cache


def test_replies_are_the_same_and_the_second_reads_no_media(chats, cache, media, monkeypatch):
    plain, cached = chats
    decoded = []
    prompter = type(cached.engine.template.mm_plugin.prompter(cached.engine.processor))
    model_inputs = prompter.model_inputs
    expected = {(text, video): ask(plain, text, media[video]) for text in ASKED for video in ("five", "two")}
    monkeypatch.setattr(
        prompter, "model_inputs", lambda *args, **more: decoded.append(1) or model_inputs(*args, **more)
    )
    for text in ASKED:
        for stream in (False, True):
            for video in ("five", "two"):
                assert ask(cached, text, media[video], stream) == expected[text, video]

    assert len(decoded) == len(cache) == 2
    assert len(set(expected.values())) == 4


def test_the_second_turn_goes_on_from_the_first(chats, cache, media):
    answers = []
    for chat in chats:
        messages = [{"role": "user", "content": ASKED[0]}]
        (first,) = chat.chat([dict(message) for message in messages], videos=[media["five"]])
        messages += [{"role": "assistant", "content": first.response_text}, {"role": "user", "content": ASKED[1]}]
        (second,) = chat.chat(messages, videos=[media["five"]])
        answers.append((first.response_text, second.response_text))

    assert answers[0] == answers[1] and len(cache) == 1


def test_text_alone_and_questions_at_once(chats, cache, media):
    plain, cached = chats
    hello = [{"role": "user", "content": "Hello"}]
    assert cached.chat(hello)[0].response_text == plain.chat([dict(hello[0])])[0].response_text
    engine = cached.engine
    pairs = [(text, video) for text in ASKED for video in ("five", "two")] * 2

    async def one(text, video):
        (response,) = await engine.chat([{"role": "user", "content": text}], videos=[media[video]])
        return response.response_text

    async def all_at_once():
        engine.semaphore = asyncio.Semaphore(4)
        return await asyncio.gather(*(one(*pair) for pair in pairs))

    semaphore = engine.semaphore
    try:
        answers = asyncio.run(all_at_once())
    finally:
        engine.semaphore = semaphore

    assert answers == [ask(plain, text, media[video]) for text, video in pairs]
    assert len(cache) == 2
