"""LlamaBoard in a browser: fine-tuning one of our models with our panel, as somebody who never writes YAML."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from browser.chatting import QUESTION, ask, facts, upload
from browser.conftest import free_port
from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.data.synthetic import SynthConfig, write_set


MODEL, STOCK = "SpaceVLLM-Qwen3-VL-2B", "Qwen3-VL-2B-Instruct"
# Once it is loaded: of the picture in the preview, in pixels of the page.
WIDTH_OF_PICTURE = """async () => {
  const seen = () => [...document.querySelectorAll('.modal-box img')].find(img => img.naturalWidth && img.clientWidth);
  while (!seen()) await new Promise(resolve => setTimeout(resolve, 100));
  return seen().clientWidth;
}"""
PANEL = "SpaceVLLM configurations"
# What Gradio asks others for by itself, and LLaMA-Factory's page does without: fonts, a script for pages inside other pages,
# and one that cuts videos, for its video field.
GRADIOS = ("fonts.g", "iframe-resizer", "ffmpeg-core")


@dataclass(frozen=True)
class Board:
    url: str
    folder: Path


def start_board(serve, folder, **environment):
    """The stock command, in a folder where it keeps its `saves/` and its configuration."""
    port = free_port()
    command = Path(sys.executable).with_name("llamafactory-cli")
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    # It wants to open a browser of the user's.
    return Board(serve(command, "webui", port=port, cwd=folder, BROWSER="true", **environment).url, folder)


@pytest.fixture(scope="module")
def board(tmp_path_factory, serve):
    folder = tmp_path_factory.mktemp("board")
    make_tiny("qwen3_vl", folder / "base")
    write_set(folder / "data", SynthConfig(num_videos=4, seed=2))
    return start_board(serve, folder)


@pytest.fixture(scope="module")
def stock_board(tmp_path_factory, serve):
    return start_board(serve, tmp_path_factory.mktemp("stock"), SPACEVLLM_DISABLE="1")


def write_rows(folder, rows, **info):
    """A data set called `rows`."""
    folder.mkdir(exist_ok=True)
    folder.joinpath("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    info = {"file_name": "rows.jsonl", **info}
    folder.joinpath("dataset_info.json").write_text(json.dumps({"rows": info}))


def open_board(board, open_page, **options):
    page = open_page(board.url, **options)
    page.get_by_text("Ready.").locator("visible=true").wait_for()
    return page


def field(page, label):
    """A field that is seen, by the text above it."""
    return page.get_by_label(re.compile(rf"^\s*{label}(\s|$)")).locator("visible=true").first


def fill(page, label, text):
    field(page, label).fill(text)
    field(page, label).blur()


def pick(page, label, choice):
    """Choose in a drop-down list."""
    field(page, label).click()
    field(page, label).fill(choice)
    page.get_by_role("option", name=choice, exact=True).click()


def enter(page, label, text):
    """Write something into a list that does not have it."""
    field(page, label).fill(text)
    field(page, label).press("Enter")


def choose_model(page, name, template):
    """Choose a model; its template comes with it."""
    from playwright.sync_api import TimeoutError

    shown = "template => [...document.querySelectorAll('input')].some(input => input.value == template)"
    for last in (False, False, True):
        pick(page, "Model name", name)
        try:
            page.wait_for_function(shown, arg=template, timeout=60_000)
            return
        except TimeoutError:  # on a busy machine, what the page does about the choice before may come after this one
            if last:
                raise


def open_panel(page):
    page.get_by_text(PANEL).click()
    field(page, "box_l1_weight").wait_for()


def preview(page):
    """The command that the page shows."""
    page.get_by_role("button", name="Preview command").locator("visible=true").click()
    block = page.locator("code").filter(has_text="llamafactory-cli train").locator("visible=true")
    block.wait_for()
    return block.inner_text()


def test_the_panel_is_there_for_our_models_only(board, open_page):
    page = open_board(board, open_page)
    choose_model(page, MODEL, "spacevllm_qwen3_vl")
    page.get_by_text(PANEL).wait_for()
    choose_model(page, STOCK, "qwen3_vl_nothink")
    page.get_by_text(PANEL).wait_for(state="hidden")
    # A template alone, with "Custom" and any path, chooses one of ours just as well.
    pick(page, "Chat template", "spacevllm")
    page.get_by_text(PANEL).wait_for()


def test_what_is_changed_in_the_panel_is_in_the_command_alone(board, open_page):
    page = open_board(board, open_page)
    choose_model(page, MODEL, "spacevllm_qwen3_vl")
    open_panel(page)
    fill(page, "space_decoder_lr", "1e-4")
    field(page, "grounding_metrics").uncheck()
    fill(page, "Data dir", str(board.folder / "data"))
    pick(page, "Dataset", "synth_train")
    command = preview(page)
    assert "--space_decoder_lr 0.0001" in command and "--grounding_metrics False" in command
    assert "box_l1_weight" not in command and "video_maxlen" not in command


def open_tab(page, name):
    tab = page.get_by_role("tab", name=name).locator("visible=true")
    if not tab.count():  # a narrow page has the last tabs in a menu
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown").get_by_text(name)

    tab.click()


def pick_several(page, label, choice):
    """Choose in a list that takes several, which closes only when it is left."""
    pick(page, label, choice)
    page.keyboard.press("Escape")


def choose_checkpoint(page, name):
    pick_several(page, "Checkpoint path", name)


def prepare(page, board, folder="data", dataset="synth_train"):
    """Our model with the tiny checkpoint and a data set."""
    choose_model(page, MODEL, "spacevllm_qwen3_vl")
    fill(page, "Model path", str(board.folder / "base"))
    fill(page, "Data dir", str(board.folder / folder))
    pick_several(page, "Dataset", dataset)


def train(page, board, name):
    """Fine-tune with some options of the panel; returns the run's folder."""
    prepare(page, board)
    page.get_by_text("Extra configurations").click()
    extra = {"optim": "adamw_torch", "logging_steps": 1, "use_cpu": True, "preprocessing_num_workers": 1}
    fill(page, "Extra arguments", json.dumps(extra))
    page.get_by_text("Multimodal configurations").click()
    fill(page, "Video max pixels", "48*48")
    open_panel(page)
    fill(page, "video_maxlen", "6")
    fill(page, "box_l1_weight", "3")
    field(page, "instruction_first").check()
    enter(page, "Output dir", name)
    page.get_by_role("button", name="Start").locator("visible=true").click()
    page.get_by_text("Finished.").locator("visible=true").first.wait_for(timeout=400_000)
    return board.folder / "saves" / MODEL / "lora" / name


def test_fine_tuning_chat_export_and_prediction(board, open_page):
    page = open_board(board, open_page)
    fine_tune(page, board)
    chat(page, board)
    export(page, board)
    predict(page, board)
    assert [url for url in page.outside if not any(name in url for name in GRADIOS)] == []


def fine_tune(page, board):
    run = train(page, board, "from_the_page")
    args = yaml.safe_load((run / "training_args.yaml").read_text())
    assert (args["video_maxlen"], args["box_l1_weight"], args["instruction_first"]) == (6, 3.0, True)
    assert "staq_num_queries" not in args
    recorded = json.loads((run / "spacevllm_config.json").read_text())
    assert recorded["preprocessing"]["video_maxlen"] == 6 and recorded["grounding"]["instruction_first"]
    log = [json.loads(line) for line in (run / "trainer_log.jsonl").read_text().splitlines()]
    first = log[0]
    assert first["loss"] == pytest.approx(first["loss_lm"] + 3 * first["loss_l1"] + 2 * first["loss_giou"], rel=1e-3)
    assert {"training_loss.png", "training_loss_lm.png", "training_loss_giou.png"} <= {
        f.name for f in run.glob("*.png")
    }
    page.screenshot(path=board.folder / "trained.png", full_page=True)


def chat(page, board):
    choose_checkpoint(page, "from_the_page")
    open_tab(page, "Chat")
    pick(page, "Inference data type", "float32")
    page.get_by_role("button", name="Load model", exact=True).locator("visible=true").click()
    page.get_by_text("0 is greedy").wait_for()
    upload(page, next((board.folder / "data" / "videos").glob("*.mp4")))
    ask(page, QUESTION, 1)
    found = facts(page)
    assert found["error"] is None and found["seconds"] > 0 and found["sheet"] >= 360
    page.screenshot(path=board.folder / "chat.png", full_page=True)
    page.get_by_role("button", name="Unload model").locator("visible=true").click()
    page.get_by_text("0 is greedy").wait_for(state="hidden")


def export(page, board):
    open_tab(page, "Export")
    fill(page, "Export dir", str(board.folder / "merged"))
    page.get_by_role("button", name="Export").locator("visible=true").click()
    page.wait_for_function("[...document.querySelectorAll('textarea')].some(box => box.value == 'Model exported.')")
    assert json.loads((board.folder / "merged" / "config.json").read_text())["model_type"] == "spacevllm_qwen3_vl"


def predict(page, board):
    open_tab(page, "Evaluate & Predict")
    fill(page, "Data dir", str(board.folder / "data"))
    pick_several(page, "Dataset", "synth_train")
    # A model of random weights does not know when to stop.
    page.get_by_label("number input for Maximum new tokens").locator("visible=true").fill("8")
    fill(page, "Output dir", "predicted")
    page.get_by_role("button", name="Start").locator("visible=true").click()
    page.get_by_text("predict_m_vIoU").locator("visible=true").first.wait_for(timeout=400_000)
    rows = (board.folder / "data" / "annotations.jsonl").read_text().splitlines()
    said = (board.folder / "saves" / MODEL / "lora" / "predicted" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in said] == [json.loads(row)["id"] for row in rows]


def test_data_sets_of_ours_are_shown_as_pictures(board, open_page):
    page = open_board(board, open_page)
    rows = [json.loads(line) for line in (board.folder / "data" / "annotations.jsonl").read_text().splitlines()][:4]
    rows[1]["videos"] = ["videos/lost.mp4"]
    rows[2]["target"]["span_frames"] = [5, 4]
    write_rows(board.folder / "mixed", rows, formatting="spacevllm")
    (board.folder / "mixed" / "videos").symlink_to(board.folder / "data" / "videos")
    prepare(page, board, "mixed", "rows")
    page.get_by_role("button", name="Preview dataset").locator("visible=true").click()
    box = page.locator(".modal-box").locator("visible=true")
    box.get_by_text(rows[0]["messages"][-1]["content"]).wait_for()
    box.get_by_text("lost.mp4").wait_for()
    assert page.evaluate(WIDTH_OF_PICTURE) > 600 and '"messages"' not in box.inner_text()
    page.screenshot(path=board.folder / "preview.png")
    box.get_by_role("button", name="Next").click()
    box.get_by_text(rows[3]["messages"][-1]["content"]).wait_for()
    assert "span_frames" in box.inner_text() and "lost.mp4" not in box.inner_text()


TABS = ("Train", "Evaluate & Predict", "Chat", "Export")


def settled(page):
    """A picture of the whole page, once it looks the same twice."""
    before = None
    for _ in range(30):
        for label in ("Output dir", "Config path"):  # they say when the page was opened
            page.get_by_label(label).evaluate_all("boxes => boxes.forEach(box => { box.value = ''; })")

        picture = page.screenshot(full_page=True, animations="disabled")
        if picture == before:
            return picture

        before = picture
        page.wait_for_timeout(300)

    raise AssertionError("the page does not come to rest")


def pictures(board, open_page, **options):
    """Every tab with a stock model chosen."""
    page = open_board(board, open_page, **options)
    choose_model(page, STOCK, "qwen3_vl_nothink")
    shots = {}
    for tab in TABS:
        open_tab(page, tab)
        page.mouse.move(0, 0)
        shots[tab] = settled(page)

    return shots


@pytest.mark.parametrize("options", [{"width": 1400}, {"width": 390, "dark": True}], ids=["wide", "phone, dark"])
def test_pages_of_other_models_are_those_without_us_pixel_by_pixel(board, stock_board, open_page, options):
    ours, stock = (pictures(each, open_page, **options) for each in (board, stock_board))
    for tab in TABS:
        (stock_board.folder / f"{tab} {options['width']} ours.png").write_bytes(ours[tab])
        (stock_board.folder / f"{tab} {options['width']} stock.png").write_bytes(stock[tab])

    assert [tab for tab in TABS if ours[tab] != stock[tab]] == []


def test_a_page_that_left_our_model_is_as_before(board, open_page):
    page = open_board(board, open_page)
    choose_model(page, STOCK, "qwen3_vl_nothink")
    before = settled(page)
    choose_model(page, MODEL, "spacevllm_qwen3_vl")
    page.get_by_text(PANEL).wait_for()
    assert settled(page) != before
    choose_model(page, STOCK, "qwen3_vl_nothink")
    page.get_by_text(PANEL).wait_for(state="hidden")
    assert settled(page) == before
