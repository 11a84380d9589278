"""`llamafactory-cli webchat` and LlamaBoard's Chat tab in a browser: a video and a question in, the drawn tube out."""

import json
from pathlib import Path

import pytest
from conftest import write_video

from browser.conftest import free_port


QUESTION = "When and where?"
MODEL = "SpaceVLLM-Qwen3-VL-2B"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    write_video(folder / "clip.mp4", 12)
    write_video(folder / "other.mp4", 6, width=96, first=50)
    (folder / "text.mp4").write_text("no video" * 100)
    return folder


@pytest.fixture(scope="module")
def webchat(serve, folder, tiny_base):
    port = free_port()
    arguments = ["--model_name_or_path", tiny_base("qwen3_vl"), "--template", "spacevllm_qwen3_vl"]
    return serve(
        *("-m", "llamafactory.cli", "webchat", *arguments, "--infer_dtype", "float32", "--video_maxlen", "6"),
        port=port,
        cwd=folder,
        GRADIO_SERVER_NAME="127.0.0.1",
        GRADIO_SERVER_PORT=str(port),
        GRADIO_TEMP_DIR=str(folder / "gradio"),
        BROWSER="true",  # LLaMA-Factory opens one; this program opens nothing
        OMP_NUM_THREADS="1",
    )


def upload(page, path):
    page.get_by_role("tab", name="Video").click()
    with page.expect_response(lambda response: "/upload" in response.url):
        page.locator("input[type=file][accept*=video]").first.set_input_files(path)

    page.locator("[data-testid$=player]").first.wait_for()


def ask(page, question, replies):
    """Ask, and wait for the drawn reply: a video behind each of so many answers."""
    page.locator("textarea").last.fill(question)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_function(f"document.querySelectorAll('.bot video').length == {replies}")
    page.wait_for_function("!document.body.innerText.includes('Drawing')")


def facts(page):
    """What a reader can see of the last reply's video and picture."""
    return page.evaluate(
        """async () => {
            const video = [...document.querySelectorAll('.bot video')].at(-1);
            const picture = [...document.querySelectorAll('.bot img')].at(-1);
            if (video.readyState < 2) await new Promise(done => video.addEventListener('loadeddata', done));
            await picture.decode();
            return {
                video: video.src, seconds: video.duration, width: video.videoWidth, error: video.error,
                picture: picture.src, sheet: picture.naturalWidth,
            };
        }"""
    )


def test_a_reply_is_a_video_a_sheet_and_folded_json(webchat, open_page, folder):
    page = open_page(webchat.url)
    upload(page, folder / "clip.mp4")
    ask(page, QUESTION, 1)
    found = facts(page)
    assert found["error"] is None and found["width"] >= 360 and abs(found["seconds"] - 3.0) < 0.1
    assert found["sheet"] >= 360

    details = page.locator(".bot details")
    assert details.count() == 1 and details.get_attribute("open") is None
    assert not page.get_by_text('"boxes"').is_visible()
    details.locator("summary").click()
    assert page.get_by_text('"boxes"').first.is_visible()
    with page.expect_download() as download:
        page.locator(".bot a[href*='tubes.json']").first.click()

    (tube,) = json.loads(Path(download.value.path()).read_text())["tubes"]
    assert len(tube["boxes"]) == len(tube["frames"]) == 6
    assert not page.outside
