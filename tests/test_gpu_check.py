"""The GPU check keeps its promises where there is no GPU: steps that fail, hang or are killed, and the shapes it builds."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import requires
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_check  # noqa: E402
from gpu import report  # noqa: E402
from gpu.shapes import SHAPES, write_checkpoint  # noqa: E402


JSON_NAME, PAGE_NAME, _ = report.names("GPU check")
# Billions of parameters, as the hub counts them.
PUBLISHED = {"qwen3_vl_4b": 4.44, "llava_onevision_7b": 8.03, "qwen2_5_vl_7b": 8.29}
# The height and width of a frame in tokens, at 448 x 448 pixels; LLaVA resizes to its tower's 384 x 384.
GRIDS = {"qwen3_vl_4b": 14, "llava_onevision_7b": 14, "qwen2_5_vl_7b": 16}


def step(name, code, limit=30.0, **more):
    return gpu_check.Step(name, [sys.executable, "-c", code], limit, **more)


def outcomes(out):
    return {one["name"]: one["outcome"] for one in json.loads((out / JSON_NAME).read_text())["steps"]}


def test_a_step_that_fails_or_hangs_is_recorded_and_the_others_go_on(tmp_path):
    figures = tmp_path / "figures.json"
    left = "import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {!r}]); time.sleep(60)"
    late = tmp_path / "late"
    steps = [
        step("broken", "print('so far so good'); raise ValueError('no luck')"),
        step("hanging", left.format(f"import time; time.sleep(4); open({str(late)!r}, 'w')"), limit=2),
        step("sound", f"print('done'); open({str(figures)!r}, 'w').write('{{\"n\": 1}}')", figures=figures),
    ]
    assert not gpu_check.check(steps, tmp_path, budget=600, dry=True)
    broken, hanging, sound = json.loads((tmp_path / JSON_NAME).read_text())["steps"]
    assert (broken["outcome"], broken["last_line"]) == ("failed", "ValueError: no luck")
    assert hanging["outcome"] == "out of time" and 2 <= hanging["seconds"] < 20
    assert (sound["outcome"], sound["last_line"], sound["figures"]) == ("ok", "done", {"n": 1})
    assert "| broken | failed |" in (tmp_path / PAGE_NAME).read_text()
    time.sleep(4)
    assert not late.exists()  # what a step has started ends with it


def test_all_well_is_said_so(tmp_path):
    assert gpu_check.check([step("sound", "pass")], tmp_path, budget=600, dry=True)
    assert outcomes(tmp_path) == {"sound": "ok"}


def test_figures_of_an_earlier_run_are_no_figures(tmp_path):
    figures = tmp_path / "figures.json"
    figures.write_text("{}")
    gpu_check.check([step("silent", "pass", figures=figures)], tmp_path, budget=600, dry=True)
    assert json.loads((tmp_path / JSON_NAME).read_text())["steps"][0]["figures"] is None


def test_without_the_needed_step_and_without_time_nothing_more_is_run(tmp_path):
    needed = [step("install", "raise SystemExit(1)", needed=True), step("tests", "pass")]
    assert not gpu_check.check(needed, tmp_path, budget=600, dry=True)
    assert outcomes(tmp_path) == {"install": "failed", "tests": "not run"}
    assert not gpu_check.check([step("long", "pass", limit=100)], tmp_path, budget=10, dry=True)
    assert outcomes(tmp_path) == {"long": "not run"}


def test_a_killed_run_leaves_what_it_has(tmp_path):
    code = (
        "import sys, gpu_check as g; from pathlib import Path\n"
        "steps = [g.Step(n, [sys.executable, '-c', c], 60) for n, c in (('first', 'pass'), ('second', 'input()'))]\n"
        f"g.check(steps, Path({str(tmp_path)!r}), 600, True)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    check = subprocess.Popen([sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / JSON_NAME).exists() or outcomes(tmp_path)["second"] != "running":
        assert time.monotonic() < end
        time.sleep(0.1)

    check.send_signal(signal.SIGKILL)
    check.communicate()  # closes what the second step waits for, so that it ends too
    assert outcomes(tmp_path) == {"first": "ok", "second": "running"}


def test_the_steps_fit_the_nine_minutes_that_a_call_may_take():
    assert gpu_check.BUDGET <= 540
    names = [one.name for one in gpu_check.plan(Path("wheels"), Path("work"), dry=False)]
    assert names == ["install", "machine", "tests", *SHAPES, "quickstart"]


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_the_hub(name, tmp_path):
    shape = SHAPES[name]
    write_checkpoint(shape, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    config = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)

    assert model.dtype == torch.bfloat16
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e9, 2) == PUBLISHED[name]
    processor = AutoProcessor.from_pretrained(tmp_path)
    side = GRIDS[name]
    if shape.backbone == "llava_onevision":
        assert processor.num_image_tokens == 27**2 and (27 + 1) // 2 == side
    else:
        assert 448 // (processor.video_processor.patch_size * processor.video_processor.merge_size) == side
        assert processor.video_processor.temporal_patch_size == config.vision_config.temporal_patch_size == 2
        assert processor.video_processor.patch_size == config.vision_config.patch_size


def test_the_wheels_are_ones_that_llamafactory_takes():
    lines = (ROOT / "constraints" / "gpu-wheels.txt").read_text().splitlines()
    pins = dict(re.fullmatch(r"([\w-]+)==([\w.]+)", line).groups() for line in lines if not line.startswith("#"))
    wanted = [Requirement(line) for line in requires("llamafactory")]
    ranges = {one.name: one.specifier for one in wanted if one.marker is None}
    checked = pins.keys() & ranges.keys()
    assert {"transformers", "trl", "peft", "accelerate", "datasets", "av"} <= checked
    for name in checked:
        assert ranges[name].contains(pins[name]), name
