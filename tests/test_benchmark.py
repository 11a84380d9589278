"""`benchmark`: from raw files to a report that says the same however often the run was killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import write_video
from runs import command

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import PredictionRow, read_rows
from spacevllm_plugin.modeling.tiny import make_tiny


VIDEOS = 7
FPS, FRAMES = 2, 40  # HC-STVG's clips last 20 s


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "base"
    make_tiny("qwen3_vl", out)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Raw files and media of HC-STVG v1 and, with one image, of RefCOCOg."""
    folder = tmp_path_factory.mktemp("benchmark") / "data"
    (folder / "media/hcstvg").mkdir(parents=True)
    (folder / "raw/hcstvg1").mkdir(parents=True)
    items = {}
    for i in range(VIDEOS):
        name = f"{i}_clip.mp4"
        write_video(folder / "media/hcstvg" / name, FRAMES, fps=FPS, first=i * FRAMES)
        items[name] = {
            "bbox": [[2 * i, 4, 20, 30]] * (4 + 3 * i),
            "st_frame": 3 + i,
            "img_num": FRAMES,
            "caption": f"The man number {i} stands up.",
            "width": 48,
            "height": 48,
        }

    # In the annotations, but not on the disk.
    items["gone.mp4"] = {**items["0_clip.mp4"], "caption": "The woman leaves."}
    (folder / "raw/hcstvg1/test.json").write_text(json.dumps(items))
    return folder


def arguments(model, data, out, *more, name="hcstvg-v1"):
    return [
        *("benchmark", name, "--model", str(model), "--data-dir", str(data), "--out", str(out), "--batch-size", "2"),
        *("--max-new-tokens", "4", "--arg", "infer_dtype=float32", "--arg", "video_maxlen=6", *more),
    ]


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("benchmark") / "whole"
    assert main(arguments(model, data, out)) == 0
    return out


def start(*argv):
    code = "import sys; from spacevllm_plugin.cli.main import main; sys.exit(main())"
    return subprocess.Popen([sys.executable, "-c", code, *argv], env={**os.environ, "OMP_NUM_THREADS": "1"})


def kill_after_first_prediction(process, out):
    """SIGKILL, once a prediction is on the disk and before the last one is."""
    part, deadline = out / "predictions.part0.jsonl", time.time() + 120
    while time.time() < deadline and process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.01)

    process.send_signal(signal.SIGKILL)
    process.wait()
    return part.read_bytes()


def test_killed_and_resumed_gives_the_same_report(model, data, finished, tmp_path):
    out = tmp_path / "killed"
    written = kill_after_first_prediction(start(*arguments(model, data, out)), out)
    assert 0 < written.count(b"\n") < VIDEOS + 1, "the kill came too late or too early to show anything"
    # What a kill in the middle of a write leaves: the second row of a batch cut off.
    lines = written.splitlines(keepends=True)
    (out / "predictions.part0.jsonl").write_bytes(lines[0] + lines[1][:25])

    assert main(arguments(model, data, out)) == 0
    for name in ("report.json", "report.md", "predictions.jsonl"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()

    assert not list(out.glob("predictions.part*"))
    ids = [row.id for row in read_rows(out / "rows/hcstvg1_test.jsonl")]
    assert [p.id for p in read_rows(out / "predictions.jsonl", PredictionRow)] == ids


def test_two_processes_give_the_same_predictions(model, data, finished, tmp_path):
    out = tmp_path / "two"
    launch = ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", "spacevllm_plugin.cli.main"]
    command(*launch, *arguments(model, data, out))
    for name in ("report.json", "predictions.jsonl"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()

    (session,) = [json.loads(line) for line in (out / "sessions.jsonl").read_text().splitlines()]
    assert session["processes"] == 2 and session["predicted"] == VIDEOS + 1
