"""The demo page in a browser, from the upload to a training step on what was put right."""

import json
import subprocess
import sys

import pytest

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set

from .conftest import free_port


TRAINING = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_target": "all",
    "template": "spacevllm_qwen3_vl",
    "dataset": "rows",
    "cutoff_len": 4096,
    "preprocessing_num_workers": 1,
    "video_maxlen": 6,
    "per_device_train_batch_size": 1,
    "max_steps": 2,
    "learning_rate": 1e-4,
    "report_to": "none",
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def demo(serve, tmp_path_factory):
    """The command in a process of its own, over a tiny model; with a video to upload."""
    folder = tmp_path_factory.mktemp("demo")
    make_tiny("qwen3_vl", folder / "base")
    write_set(folder / "set", SynthConfig(num_videos=1, seed=7, size=96, shift=True))
    port = free_port()
    server = serve(
        *("-m", "spacevllm_plugin.cli.main", "demo", "--model", folder / "base", "--port", port),
        *("--corrections", folder / "corrections" / "rows.jsonl", "--arg", "infer_dtype=float32"),
        port=port,
        OMP_NUM_THREADS="1",
    )
    return server, folder


def ask(page, folder):
    """Upload the video, ask one sentence, and wait for the drawn answer."""
    page.set_default_timeout(120_000)
    page.locator("input[type=file]").first.set_input_files(folder / "set" / "videos" / "v00000.mp4")
    page.get_by_text("v00000.mp4: 6.0 seconds, 12 frames").wait_for()
    page.locator("#sv-sentences textarea").fill("the yellow square")
    page.locator("#sv-find").click()
    page.locator(".sv-table").wait_for()
    page.wait_for_function("document.querySelector('#sv-player video')?.videoWidth > 0")


def drag(page, start, end):
    """Draw on the frame, from and to parts of its width and height."""
    page.locator(".sv-stage").scroll_into_view_if_needed()
    area = page.locator(".sv-stage svg").bounding_box()
    for (x, y), act in ((start, page.mouse.down), (end, page.mouse.up)):
        page.mouse.move(area["x"] + x * area["width"], area["y"] + y * area["height"], steps=4)
        act()


@pytest.mark.parametrize("width, dark", [(1400, False), (390, True)])
def test_a_video_is_answered_and_plays(demo, open_page, width, dark):
    page = open_page(demo[0].url, width=width, dark=dark)
    ask(page, demo[1])
    assert page.evaluate("document.querySelector('#sv-player video').error") is None
    assert page.locator(".sv-track").count() == 1 and page.locator(".sv-table tbody tr").count() == 1
    before = page.locator(".sv-frame figcaption").inner_text()
    page.locator("#sv-number input[type=number]").fill("7")
    page.locator("#sv-number input[type=number]").press("Tab")
    page.get_by_text("frame 7 of 12").wait_for()
    assert before != page.locator(".sv-frame figcaption").inner_text()
    # Nothing sticks out of a phone's screen, and nobody else is asked for anything.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.outside == []


def test_an_example_is_clicked(demo, open_page):
    page = open_page(demo[0].url)
    page.set_default_timeout(120_000)
    page.get_by_role("button", name="Image 1").click()
    page.get_by_text("Example, image 1").wait_for()
    assert page.locator("#sv-sentences textarea").input_value()
    page.locator("#sv-find").click()
    page.locator(".sv-table").wait_for()
    assert page.locator(".sv-stage rect.sv-answer").count() == 1
    assert page.locator(".sv-stage rect.sv-truth").count() == 1


def test_a_file_that_is_no_video_is_refused_in_a_line(demo, open_page, tmp_path):
    page = open_page(demo[0].url)
    page.set_default_timeout(120_000)
    (tmp_path / "notes.mp4").write_text("only words")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "notes.mp4")
    page.get_by_role("alert").filter(has_text="neither a video nor an image").wait_for()


def test_what_is_put_right_is_saved_checked_and_learned(demo, open_page):
    server, folder = demo
    page = open_page(server.url)
    ask(page, folder)
    drag(page, (0.25, 0.25), (0.75, 0.5))
    page.locator(".sv-tick").wait_for()
    drawn = [float(number) for number in page.locator("#sv-box textarea, #sv-box input").input_value().split(",")]
    assert drawn == pytest.approx([24, 24, 72, 48], abs=1)
    # Grabbed inside, the box moves as it is.
    drag(page, (0.5, 0.4), (0.5, 0.6))
    page.wait_for_function("document.querySelector('#sv-box textarea, #sv-box input').value.split(',')[1] > 40")
    for field, value in (("#sv-start", "0"), ("#sv-end", "3")):
        page.locator(f"{field} input").fill(value)
        page.locator(f"{field} input").press("Tab")

    page.locator(".sv-bar.sv-drawn").wait_for()
    page.get_by_label("Keep only the boxes that I drew").check()
    page.locator("#sv-save").click()
    page.get_by_text("saved as corrections/").wait_for()

    rows_file = folder / "corrections" / "rows.jsonl"
    (row,) = read_rows(rows_file)
    assert row.query == "the yellow square" and row.target.span_seconds == (0, 3)
    assert row.target.boxes[0] == pytest.approx([24, 43, 72, 67], abs=2)

    check = subprocess.run(
        [sys.executable, "-m", "spacevllm_plugin.cli.main", "check", rows_file, "--media-dir", rows_file.parent],
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stdout + check.stderr

    recipe = folder / "recipe.yaml"  # JSON is YAML
    places = {
        "model_name_or_path": str(folder / "base"),
        "dataset_dir": str(rows_file.parent),
        "media_dir": str(rows_file.parent),
        "output_dir": str(folder / "adapter"),
    }
    recipe.write_text(json.dumps(TRAINING | places))
    train = subprocess.run(
        [sys.executable, "-m", "llamafactory.cli", "train", recipe], capture_output=True, text=True, cwd=folder
    )
    assert train.returncode == 0, train.stderr[-3000:]
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
