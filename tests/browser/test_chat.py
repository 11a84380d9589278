"""`llamafactory-cli webchat` in a browser: a video and a question in, the drawn tube out."""

import json
import time
from pathlib import Path

import pytest
from conftest import write_video

from browser.chatting import QUESTION, ask, facts, upload
from browser.conftest import free_port


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    write_video(folder / "clip.mp4", 12)
    write_video(folder / "other.mp4", 6, width=96, first=50)
    (folder / "text.mp4").write_text("no video" * 100)
    return folder


def start(serve, folder, command, *arguments):
    port = free_port()
    return serve(
        *("-m", "llamafactory.cli", command, *arguments),
        port=port,
        cwd=folder,
        GRADIO_SERVER_NAME="127.0.0.1",
        GRADIO_SERVER_PORT=str(port),
        GRADIO_TEMP_DIR=str(folder / "gradio"),
        BROWSER="true",  # LLaMA-Factory opens one; this program opens nothing
        OMP_NUM_THREADS="1",
    )


@pytest.fixture(scope="module")
def webchat(serve, folder, tiny_base):
    arguments = ["--model_name_or_path", tiny_base("qwen3_vl"), "--template", "spacevllm_qwen3_vl"]
    return start(serve, folder, "webchat", *arguments, "--infer_dtype", "float32", "--video_maxlen", "6")


def drawn(folder):
    return {path.parent for path in (folder / "gradio").rglob("tube_1.mp4")}


def downloaded(page):
    with page.expect_download() as download:
        page.locator("a[download='tubes.json']").last.click()

    return json.loads(Path(download.value.path()).read_text())["tubes"]


def test_a_reply_is_a_video_a_sheet_and_folded_json(webchat, open_page, folder):
    page = open_page(webchat.url)
    upload(page, folder / "clip.mp4")
    stock = set(page.outside)  # the fonts of gradio's theme, refused
    ask(page, QUESTION, 1)
    found = facts(page)
    assert found["error"] is None and found["width"] >= 360 and abs(found["seconds"] - 3.0) < 0.1
    assert found["sheet"] >= 360

    json_lines = page.get_by_text('"boxes"')
    assert not json_lines.is_visible()
    page.locator(".bot details summary").click()
    json_lines.wait_for(state="visible")
    (tube,) = downloaded(page)
    assert len(tube["boxes"]) == len(tube["frames"]) == 6
    # The block itself is not shown a second time.
    assert page.locator(".bot pre").count() == 1

    ask(page, "And then?", 2)
    again = facts(page)
    assert again["error"] is None and again["video"] != found["video"]
    assert downloaded(page)[0]["frames"] == tube["frames"]
    assert set(page.outside) == stock


def test_users_have_files_of_their_own_which_go_with_their_page(webchat, open_page, folder):
    before = drawn(folder)
    pages = [open_page(webchat.url), open_page(webchat.url)]
    for page, name, seconds in zip(pages, ("clip.mp4", "other.mp4"), (3.0, 1.5)):
        upload(page, folder / name)
        ask(page, QUESTION, 1)
        assert abs(facts(page)["seconds"] - seconds) < 0.1

    first, second = drawn(folder) - before
    assert first.parent != second.parent
    pages[0].close()
    end = time.monotonic() + 60
    while len(drawn(folder) - before) == 2 and time.monotonic() < end:
        time.sleep(0.2)

    (left,) = drawn(folder) - before
    assert left.as_posix() in facts(pages[1])["video"]


def test_what_cannot_be_read_is_said_and_can_be_asked_again(webchat, open_page, folder):
    page = open_page(webchat.url)
    upload(page, folder / "text.mp4")
    page.get_by_placeholder("Input...").fill(QUESTION)
    page.get_by_role("button", name="Submit").click()
    said = page.get_by_text("text.mp4: not a readable video")
    said.wait_for()
    assert str(folder) not in said.inner_text()
    # Of the video; the messages above lie over what a mouse would reach.
    page.locator("button[aria-label=Clear]").last.dispatch_event("click")
    upload(page, folder / "clip.mp4")
    ask(page, QUESTION, 1)
    assert page.locator(".user.message").count() == 1


def test_it_is_greedy_and_says_so_in_the_pages_language(webchat, open_page):
    page = open_page(webchat.url)
    page.get_by_text("0 is greedy: a span is not a matter of taste.").wait_for()
    assert page.get_by_label("number input for Temperature").input_value() == "0"
    page.get_by_role("listbox").first.click()
    page.get_by_role("option", name="zh").click()
    page.get_by_text("0 为贪心解码：时间段不是口味问题。").wait_for()


def test_the_box_for_thinking_is_unticked_where_thoughts_are_trained_empty(serve, open_page, folder, tiny_base):
    arguments = ["--model_name_or_path", tiny_base("qwen3_5"), "--template", "spacevllm_qwen3_5"]
    server = start(serve, folder, "webchat", *arguments, "--infer_dtype", "float32", "--video_maxlen", "6")
    page = open_page(server.url)
    page.get_by_text("0 is greedy").wait_for()
    box = page.get_by_label("Enable thinking")
    page.wait_for_function("box => !box.checked", arg=box.element_handle())
