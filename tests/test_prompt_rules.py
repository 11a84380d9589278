"""Special tokens and media tags typed in a text: refused by name, by every backbone."""

import pytest
from conftest import prompt, user, write_image, write_video

from spacevllm_plugin.data.prompt_rules import PromptError, check_messages, special_tokens
from spacevllm_plugin.data.schema import VISUAL_TAGS, AnnotationRow
from spacevllm_plugin.data.video import MediaError
from spacevllm_plugin.inference.engine import row_item


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules")
    return {
        "video": write_video(folder / "two.mp4", 2, fps=2),
        "longer": write_video(folder / "five.mp4", 5, fps=2),
        "image": write_image(folder / "image.png"),
        "folder": folder,
    }


def test_all_special_tokens_of_a_prompt_are_known(engine, media):
    """What a prompter or a template writes is what nobody else may write."""
    tokenizer = engine.processor.tokenizer
    item = engine.item("x", "qa", [user("<image><video>Where?")], [media["image"]], [media["video"]], system="Look.")
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    written = special.intersection(tokenizer.convert_ids_to_tokens(item.token_ids))
    assert {"<|staq|>", "<|im_start|>", "<|im_end|>"} <= written <= {*special_tokens(), *VISUAL_TAGS.values()}
    assert {tokenizer.eos_token, tokenizer.pad_token} <= set(special_tokens())


@pytest.mark.parametrize("token", special_tokens())
def test_a_special_token_in_a_text_is_named(engine, media, token):
    video = {"videos": [media["video"]]}
    with pytest.raises(PromptError, match=r"user's text") as error:
        prompt(engine, f"<video>Where is the {token}?", **video)

    assert f"`{token}`" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(PromptError, match="assistant's text"):
        prompt(engine, [user("<video>a"), {"role": "assistant", "content": token}, user("b")], **video)

    with pytest.raises(PromptError, match="system's text"):
        engine.item("x", "qa", [user("<video>a")], [], video["videos"], system=f"Be good. {token}")


@pytest.mark.parametrize(
    ("messages", "images", "says"),
    [
        ([user("<video>Where is the <video>?")], 0, "2 `<video>` in the text, but 1 videos"),
        ([user("Where is it?")], 0, "0 `<video>` in the text, but 1 videos"),
        ([user("<video>Where is the <image>?")], 0, "1 `<image>` in the text, but 0 images"),
        ([user("<video>a"), {"role": "assistant", "content": "<video>"}, user("b")], 0, "assistant's text: it stands"),
        ([user("<image>a"), {"role": "assistant", "content": "<video>"}, user("b")], 1, "assistant's text: it stands"),
    ],
)
def test_tags_must_fit_the_media(engine, media, messages, images, says):
    with pytest.raises(PromptError) as error:
        prompt(engine, messages, images=[media["image"]] * images, videos=[media["video"]])

    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_only_looks_special_passes(engine, media):
    text = "Where is <b>the</b> <|thing|>, 3 < 5 | x > and <videos> &lt;video&gt; <think>?"
    check_messages([user(text)], 0, 0)
    item = prompt(engine, "<video>" + text, videos=[media["video"]])
    assert len(item.videos) == 1


def test_tokens_are_counted_against_the_media(engine, media):
    """Whatever else might bring them in: what the model would look up is there, and nothing more."""
    item = prompt(engine, "<image>a <video>b", [media["image"]], [media["video"]])
    engine.prompter.check_tokens(item.token_ids, item.images, item.videos)
    tokens = ["<|staq|>", engine.prompter.image_token, engine.prompter.video_token]
    for token, token_id in zip(tokens, engine.processor.tokenizer.convert_tokens_to_ids(tokens)):
        with pytest.raises(PromptError, match="times") as error:
            engine.prompter.check_tokens([*item.token_ids, token_id], item.images, item.videos)

        assert f"`{token}`" in str(error.value)


def test_tokens_without_their_media_are_named(engine, media):
    """As rows that were tokenised earlier may bring them."""
    item = prompt(engine, "<video>Where?", videos=[media["video"]])
    with pytest.raises(PromptError, match="row without media"):
        engine.prompter.model_inputs([item.token_ids], [[]], [[]])

    longer = prompt(engine, "<video>Where?", videos=[media["longer"]])
    with pytest.raises(MediaError, match="five.mp4: no longer as it was when the row was tokenised"):
        engine.prompter.model_inputs([item.token_ids], [[]], [longer.videos])


def test_media_of_later_turns_are_left_out_with_them(engine, media):
    row = AnnotationRow(
        id="two turns",
        task="vtg",
        messages=[
            user("<video>When?"),
            {"role": "assistant", "content": "From 0.0 to 0.5 seconds."},
            user("<video>And here?"),
            {"role": "assistant", "content": "From 0.5 to 1.0 seconds."},
        ],
        videos=["two.mp4", "five.mp4"],
        target={"span_seconds": (0.0, 0.5)},
    )
    item = row_item(engine, row, media["folder"])
    assert [plan.ref.path for plan in item.videos] == [media["video"]]
