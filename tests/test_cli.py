"""What the commands print, and how soon they say what is wrong."""

import json
import logging
import os
import subprocess
import sys
import sysconfig
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import write_image, write_video
from runs import train
from safetensors.torch import load_file, save_file

from spacevllm_plugin.cli.ground_table import describe
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.cli.path_check import find_path_problem
from spacevllm_plugin.data.plan import Preprocessing, plan_video
from spacevllm_plugin.data.schema import PredictionRow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def base(folder):
    assert main(["make-tiny", "qwen3_vl", "--out", str(folder / "base")]) == 0
    return folder / "base"


@pytest.fixture(scope="module")
def video(folder):
    return write_video(folder / "v.mp4", 100, fps=10)


# Nobody listens there.
NOBODY = "http://127.0.0.1:9"
RUN_ALL = """
import json, sys
from spacevllm_plugin.cli.main import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    for stream in (sys.stdout, sys.stderr):
        print("end:", code, file=stream, flush=True)
"""


def run_all(*commands: list[str]) -> list[tuple[str, str]]:
    """(stdout, stderr) of commands that are run one after the other in a process of their own, and succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = [sys.executable, "-c", RUN_ALL, json.dumps(commands)]
    result = subprocess.run(process, capture_output=True, text=True, env=environment)
    out, err = (stream.split("end: 0\n") for stream in (result.stdout, result.stderr))
    assert out.pop() == err.pop() == "" and len(out) == len(err) == len(commands), result.stderr[-3000:]
    return list(zip(out, err))


def test_ground_prints_a_table_and_nothing_else(folder, base, video, synthetic_set):
    from spacevllm_plugin.integration.engine_loader import load_engine

    engine = load_engine(str(base), infer_dtype="float32")
    engine.model.save_pretrained(folder / "whole")
    engine.processor.save_pretrained(folder / "whole")
    # One whose backbone lacks a tensor.
    engine.model.save_pretrained(folder / "broken")
    engine.processor.save_pretrained(folder / "broken")
    tensors = load_file(folder / "broken" / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("mlp.down_proj.weight"))
    save_file({name: tensors[name] for name in tensors if name != lost}, folder / "broken" / "model.safetensors")
    options = {"dataset": "synth_train", "finetuning_type": "lora", "save_strategy": "steps", "max_steps": 1}
    train(base, synthetic_set.folder, folder / "adapter", **options)

    def ground(model, *more):
        rest = ("--query", "the red circle", "--max-new-tokens", "4")
        return ["ground", "--model", str(folder / model), "--video", video, *rest, *more]

    table, loud, plain, broken, adapted = run_all(
        ground("whole"),
        ground("whole", "-v", "--json", "--render", str(folder / "sheet.png")),
        ground("base"),
        ground("broken"),
        ground("base", "--adapter", str(folder / "adapter")),
    )
    assert [line.split()[0] for line in table[0].splitlines()[:4]] == ["video", "query", "answer", "span"]
    assert table[1] == ""
    # With `-v` the libraries speak, but never on stdout.
    assert len(loud[1].splitlines()) > 100 and "Model config" in loud[1] and "llamafactory.model" in loud[1]
    prediction = PredictionRow.model_validate_json(loud[0])
    assert repr(prediction.text) in table[0]
    # What users should know comes through, and only that.
    (warning,) = plain[1].splitlines()
    assert "Plain backbone" in warning and "mean nothing" in warning
    assert "LOAD REPORT" in broken[1] and "down_proj" in broken[1] and "deprecated" not in broken[1]
    assert adapted[1] == ""


def test_what_was_quiet_is_as_before_afterwards(base, tmp_path):
    from transformers.utils import logging as transformers_logging

    def state():
        handlers = logging.getLogger("transformers").handlers
        bars = transformers_logging.is_progress_bar_enabled()
        return (
            logging.root.manager.disable,
            list(warnings.filters),
            bars,
            [list(h.filters) for h in handlers],
            sys.stdout,
        )

    before = state()
    image = write_image(tmp_path / "i.png")
    assert main(["ground", "--model", str(base), "--image", image, "--query", "x", "--max-new-tokens", "1"]) == 0
    assert main(["ground", "--model", str(base), "--image", str(tmp_path / "no.png"), "--query", "x"]) == 1
    assert state() == before


def test_the_table_shows_boxes_all_over_the_span(video):
    plan = plan_video(video, Preprocessing(video_maxlen=6), "uniform", 1)
    boxes = [[frame, 1, frame + 10, 20.26] for frame in plan.frames]
    fields = {"id": "x", "text": "From 2.0 to\x1b[2J 4.0 seconds.", "frames": plan.frames, "boxes": boxes}
    row = PredictionRow(**fields, span_seconds=(2.0, 4.0), span_frames=(20, 40))
    lines = describe(row, "v.mp4", "the red circle", plan).splitlines()
    assert lines[:2] == ["video   v.mp4", "query   the red circle"]
    assert lines[2] == r"answer  'From 2.0 to\x1b[2J 4.0 seconds.'"
    assert lines[3] == "span    2.00 to 4.00 s, frames 20 to 39 of 100"
    table = [line.split() for line in lines[5:-1]]
    assert table[0] == ["seconds", "frame", "x1", "y1", "x2", "y2"]
    assert table[1] == ["2.00", "20", "20.0", "1.0", "30.0", "20.3"] and table[-1][:3] == ["3.90", "39", "39.0"]
    assert len(table) == 9 and lines[-1].startswith("… 12 more frames; --json")

    row.span_frames = (50, 52)
    assert [line.split()[1] for line in describe(row, "v.mp4", "x", plan).splitlines()[6:]] == ["50", "51"]
    row = PredictionRow(**fields, status="unreadable")
    assert describe(row, "v.mp4", "x", plan).splitlines()[3:] == ["span    no time could be read from the answer"]


def test_the_table_of_an_image():
    row = PredictionRow(id="x", text="Here.", frames=[0], boxes=[[1, 2, 3.04, 4.06]])
    lines = describe(row, "i.png", "the red circle", None).splitlines()
    assert lines == [
        "image   i.png",
        "query   the red circle",
        "answer  'Here.'",
        "box     x1 1.0, y1 2.0, x2 3.0, y2 4.1",
    ]


@pytest.mark.parametrize("query", ["", " \n"])
def test_an_empty_query_is_refused(query, capsys):
    assert main(["ground", "--model", "nowhere", "--video", "v.mp4", "--query", query]) == 2
    assert capsys.readouterr().err == "spacevllm-cli ground: --query is empty: it takes the sentence to look for\n"


def refusal(capsys, *arguments: str) -> str:
    """The line with which `ground` refuses a model; fails where that takes long."""
    started = time.monotonic()
    assert main(["ground", "--video", "v.mp4", "--query", "x", *arguments]) == 1
    assert time.monotonic() - started < 5
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("spacevllm-cli ground: ")


def test_what_can_be_no_model_is_refused_at_once(base, folder, tmp_path, capsys, monkeypatch):
    use_hub(monkeypatch, NOBODY)
    for name in ("./no", "/no/where", "saves/qwen/merged", "~/merged"):
        assert refusal(capsys, "--model", name) == f"--model {name}: no such folder"

    (tmp_path / "file").write_text("")
    assert refusal(capsys, "--model", str(tmp_path / "file")).endswith("file: a file, not a folder")
    assert refusal(capsys, "--model", str(tmp_path)).endswith("the folder holds no config.json")
    missing = refusal(capsys, "--model", str(base), "--adapter", str(tmp_path))
    assert missing.startswith("--adapter ") and missing.endswith("the folder holds no adapter_config.json")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "name it with --adapter" in refusal(capsys, "--model", str(tmp_path))
    line = refusal(capsys, "--model", "out/mergd")
    assert line.startswith("--model out/mergd: neither a folder nor a model in the local cache, and the hub does not")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(capsys, "--model", "out/mergd")


class _Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: by the name of the model that it is asked for."""

    ERRORS = {
        "gated": (403, "GatedRepo"),
        "unknown": (401, "RepoNotFound"),
        "revision": (404, "RevisionNotFound"),
        "empty": (404, "EntryNotFound"),
        "busy": (503, ""),
    }

    def do_HEAD(self):
        name = self.path.split("/")[2]
        status, code = self.ERRORS.get(name, (200, ""))
        if name == "silent":
            time.sleep(4)

        self.send_response(status)
        for header, value in (("X-Error-Code", code), ("X-Repo-Commit", "0" * 40), ("ETag", '"1"')):
            self.send_header(header, value)

        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


def use_hub(monkeypatch, url):
    """As `HF_ENDPOINT` does, which is read when huggingface_hub is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    use_hub(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gated", "the hub wants to know you"),
        ("unknown", "the hub has none of this name"),
        ("revision", "on the hub it has no revision main"),
        ("empty", "on the hub it has no config.json"),
        ("silent", "the hub does not answer"),
    ],
)
def test_what_the_hub_says_of_a_model_is_said_at_once(hub, capsys, name, says):
    line = refusal(capsys, "--model", f"org/{name}")
    assert (
        line.startswith(f"--model org/{name}: neither a folder nor a model in the local cache, and ") and says in line
    )


@pytest.mark.parametrize("name", ["there", "busy"])
def test_what_the_hub_has_or_may_have_is_downloaded(hub, name):
    from spacevllm_plugin.cli.sources import check_sources

    check_sources(f"org/{name}", f"org/{name}, org/there", {})


def test_what_is_cached_needs_no_hub(base, tmp_path, monkeypatch):
    from spacevllm_plugin.cli.sources import check_sources

    use_hub(monkeypatch, NOBODY)
    repository = tmp_path / "models--org--cached"
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("0" * 40) / "config.json").write_bytes((base / "config.json").read_bytes())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    check_sources("org/cached", None, {"cache_dir": str(tmp_path)})


def test_the_trainer_of_this_environment_must_be_on_the_path(tmp_path, monkeypatch):
    scripts = sysconfig.get_path("scripts")
    monkeypatch.setenv("PATH", scripts)
    assert find_path_problem() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    problem = find_path_problem()
    assert "`llamafactory-cli` is not on PATH" in problem and scripts in problem
    other = tmp_path / "llamafactory-cli"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), scripts]))
    assert f"on PATH is {other}, of another environment" in find_path_problem()
    other.unlink()
    other.symlink_to(Path(scripts, "llamafactory-cli"))
    assert find_path_problem() is None
