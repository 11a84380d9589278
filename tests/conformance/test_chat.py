"""Chat and its stream: the text, then one JSON block with the tubes."""

import asyncio
import base64
import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from runs import TEMPLATES

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.data.prompt_rules import PromptError
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set


@pytest.fixture(scope="module", params=list(TEMPLATES))
def chat_model(request, tmp_path_factory):
    from llamafactory.chat import ChatModel

    base = tmp_path_factory.mktemp("chat") / "base"
    make_tiny(request.param, base)
    return ChatModel(
        {
            "model_name_or_path": str(base),
            "template": TEMPLATES[request.param],
            "infer_dtype": "float32",
            "video_maxlen": 6,
            "max_new_tokens": 8,
            "do_sample": False,
        }
    )


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "data"
    write_set(folder, SynthConfig(num_videos=2, seed=1, tasks=("stvg", "rec")))
    rows = list(read_rows(folder / "annotations.jsonl"))
    videos = sorted({row.videos[0] for row in rows if row.videos})
    return [str(folder / video) for video in videos], [str(folder / row.images[0]) for row in rows if row.images]


def block(text: str) -> list[dict]:
    before, _, rest = text.partition("```json\n")
    return json.loads(rest.partition("\n```")[0])["tubes"]


def test_reply_carries_the_tube(chat_model, media):
    videos, _ = media
    messages = [{"role": "user", "content": "When and where does the red circle move?"}]
    (response,) = chat_model.chat(messages, videos=videos[:1])
    (tube,) = block(response.response_text)
    assert tube["kind"] == "video"
    assert len(tube["frames"]) == len(tube["boxes"]) >= 3
    assert all(0 <= x1 <= x2 <= 48 and 0 <= y1 <= y2 <= 48 for x1, y1, x2, y2 in tube["boxes"])


def test_stream_gives_the_same(chat_model, media):
    videos, _ = media
    messages = [{"role": "user", "content": "When and where does the red circle move?"}]
    (whole,) = chat_model.chat([dict(message) for message in messages], videos=videos[:1])
    streamed = "".join(chat_model.stream_chat([dict(message) for message in messages], videos=videos[:1]))
    assert block(streamed) == block(whole.response_text)


def test_media_come_in_order_of_appearance(chat_model, media):
    videos, images = media
    messages = [{"role": "user", "content": "<image>First this, then<video>that."}]
    (response,) = chat_model.chat(messages, images=images[:1], videos=videos[:1])
    assert [tube["kind"] for tube in block(response.response_text)] == ["image", "video"]


def test_text_alone_gets_no_block(chat_model):
    (response,) = chat_model.chat([{"role": "user", "content": "Hello"}])
    assert "```json" not in response.response_text


@pytest.mark.parametrize("text", ["Where is the <|staq|>?", "Hi<|im_end|>", "<video><video>Where?", "<image>Where?"])
def test_special_tokens_in_a_text_are_refused_and_the_chat_goes_on(chat_model, media, text):
    videos, _ = media
    for ask in (chat_model.chat, lambda *args, **kwargs: list(chat_model.stream_chat(*args, **kwargs))):
        with pytest.raises(PromptError, match="in the"):
            ask([{"role": "user", "content": text}], videos=videos[:1])

    test_reply_carries_the_tube(chat_model, media)


def test_blocks_of_earlier_replies_are_not_shown_to_the_model(chat_model, media):
    """Every front end sends a reply back as it came, with its tube, when the conversation goes on."""
    videos, _ = media
    question = {"role": "user", "content": "<video>When and where does the red circle move?"}
    (first,) = chat_model.chat([dict(question)], videos=videos[:1])
    plain = first.response_text.partition("\n\n```json")[0]
    assert plain != first.response_text

    def go_on(reply):
        messages = [dict(question), {"role": "assistant", "content": reply}, {"role": "user", "content": "And then?"}]
        (second,) = chat_model.chat(messages, videos=videos[:1])
        return second

    assert go_on(first.response_text) == go_on(plain)


def test_several_answers_to_one_prompt(chat_model, media):
    videos, _ = media
    messages = [{"role": "user", "content": "When and where does the red circle move?"}]
    first, second = chat_model.chat(messages, videos=videos[:1], num_return_sequences=2)
    assert block(first.response_text)[0]["boxes"] == block(second.response_text)[0]["boxes"]


def test_two_requests_at_once_keep_their_own_tubes(chat_model, media):
    """`MAX_CONCURRENT` lets generations run side by side."""
    videos, _ = media
    engine = chat_model.engine
    engine.semaphore = asyncio.Semaphore(2)

    async def ask(video):
        messages = [{"role": "user", "content": "When and where does the red circle move?"}]
        (response,) = await engine.chat(messages, videos=[video])
        return block(response.response_text)[0]["boxes"]

    async def both():
        return await asyncio.gather(ask(videos[0]), ask(videos[1]))

    alone = [asyncio.run(ask(video)) for video in videos]
    assert asyncio.run(both()) == alone


@pytest.mark.parametrize("stream", [False, True])
def test_api_takes_a_video_in_the_request(chat_model, media, stream):
    """As the OpenAI clients send it: base64; LLaMA-Factory hands it on as a stream of bytes."""
    from llamafactory.api.app import create_app

    videos, _ = media
    question = "When and where does the red circle move?"
    (expected,) = chat_model.chat([{"role": "user", "content": question}], videos=videos[:1])
    url = "data:video/mp4;base64," + base64.b64encode(Path(videos[0]).read_bytes()).decode()
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]
    body = {"model": "any", "messages": [{"role": "user", "content": content}], "stream": stream}
    answer = TestClient(create_app(chat_model)).post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    if stream:
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        text = "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events)
    else:
        text = answer.json()["choices"][0]["message"]["content"]

    assert block(text) == block(expected.response_text)
