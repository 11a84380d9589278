"""`benchmark`: from raw files to a report that says the same however often the run was killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from conftest import write_video
from crew import Crew, times
from PIL import Image
from runs import command

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.cli.loading import load
from spacevllm_plugin.cli.main import build_parser, main
from spacevllm_plugin.data.schema import PredictionRow, read_rows
from spacevllm_plugin.scoreboard import BENCHMARKS, Run
from spacevllm_plugin.scoreboard.ranks import own_gpu
from spacevllm_plugin.scoreboard.settings import Settings


VIDEOS = 7
FPS, FRAMES = 2, 40  # HC-STVG's clips last 20 s


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "base"
    make_tiny("qwen3_vl", out)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Raw file and media of HC-STVG v1; one video is missing."""
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
    """A run that nothing disturbed, by one thread."""
    out = tmp_path_factory.mktemp("benchmark") / "whole"
    command("spacevllm-cli", *arguments(model, data, out))
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


def test_a_crew_gives_the_same_report(model, data, finished, tmp_path):
    """Workers that die, and the answers of some are lost, as `--ray` has them."""
    out = tmp_path / "crew"
    settings = Settings(str(model), None, {"infer_dtype": "float32", "video_maxlen": 6}, 4, 2)
    args = build_parser("benchmark").parse_args(arguments(model, data, out)[1:])
    crew = partial(Crew, dies=times(1), dies_after=times(1))
    Run(BENCHMARKS["hcstvg-v1"], settings, data, out, hire=crew, retries=3)(partial(load, args))
    for name in ("report.json", "report.md", "predictions.jsonl", "settings.json"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()

    assert json.loads((out / "sessions.jsonl").read_text())["processes"] == Crew.size
    assert [file.name for file in out.glob("predictions.*")] == ["predictions.jsonl"]


@pytest.mark.parametrize("threads", ["2", "8"])
def test_threads_change_no_byte(model, data, finished, tmp_path, threads):
    command("spacevllm-cli", *arguments(model, data, tmp_path / "out"), env={"OMP_NUM_THREADS": threads})
    for name in ("report.json", "report.md", "predictions.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes()


def test_other_kernels_change_the_last_digit_at_most(model, data, finished, tmp_path):
    """What another processor may do: here, on x86, the slow products that MKL has for all of them."""
    command("spacevllm-cli", *arguments(model, data, tmp_path / "out"), env={"MKL_CBWR": "COMPATIBLE"})
    folders = tmp_path / "out", finished
    theirs, ours = (list(read_rows(folder / "predictions.jsonl", PredictionRow)) for folder in folders)
    assert [p.text for p in theirs] == [p.text for p in ours]
    for a, b in zip(theirs, ours, strict=True):
        assert a.boxes is None or np.abs(np.subtract(a.boxes, b.boxes)).max() < 0.0101

    for a, b in zip(*(json.loads((folder / "report.json").read_text())["scores"] for folder in folders), strict=True):
        a, b = ({k: v for k, v in s["groups"]["all"].items() if isinstance(v, float)} for s in (a, b))
        # One box of these 42 that falls on the other side of a rounding moves a mean by less than 1e-5.
        assert a == pytest.approx(b, abs=1e-5)


def numbers(page, heading, group):
    """The cells of a group's line in the first table below a heading of report.md."""
    lines = page[page.index(heading) :].splitlines()
    line = next(line for line in lines if line.startswith(f"| {group} |"))
    return [cell.split()[0] for cell in line.strip("| ").split("|")[1:]]


@pytest.fixture(scope="module")
def scored(model, data, finished, tmp_path_factory):
    """The report over answers written by hand: all right, but for one span and one missing video."""
    out = tmp_path_factory.mktemp("benchmark") / "by_hand"
    shutil.copytree(finished, out)
    with open(out / "predictions.jsonl", "w") as file:
        for row in read_rows(out / "rows/hcstvg1_test.jsonl"):
            span = (4, 8) if row.id == "hcstvg1/test/0_clip.mp4/0" else row.target.span_frames  # right: 2 to 6
            tube = {"frames": [0], "boxes": row.target.boxes[:1], "span_frames": span}
            answer = {"status": "failed", "error": "no video"} if "gone" in row.id else {"text": "x", **tube}
            file.write(json.dumps({"id": row.id, **answer}) + "\n")

    assert main(arguments(model, data, out)) == 0
    return out


def test_the_report_lists_the_numbers(scored):
    report, page = json.loads((scored / "report.json").read_text()), (scored / "report.md").read_text()
    # Frames 4 and 5 of 2 to 8: tIoU = vIoU = 2/6. Six items at 1, one at 0: (6 + 1/3) / 8.
    headline = report["scores"][0]["groups"]["all"]
    assert headline["m_tIoU"] == headline["m_vIoU"] == pytest.approx((6 + 1 / 3) / 8)
    assert numbers(page, "## Scores", "all") == ["8", "79.17", "79.17", "87.50", "75.00", "87.50"]
    assert report["counts"] == {"scored": 7, "missing": 0, "unreadable": 0, "failed": 1}
    assert "scored 7, missing 0, unreadable 0, failed 1" in page
    # HC-STVG's own script: inclusive ends, the same frames; the video without an answer stays in the mean.
    assert numbers(page, "`hcstvg`", "all")[:3] == ["8", "79.17", "79.17"]
    # The STCAT family takes true spans one frame short: 2 of 6 frames become 1 of 6 for item 0, n - 1 of n for item i,
    # which has n = 4 + 3 i boxes, over the 7 answered ones.
    expected = (1 / 6 + sum((3 + 3 * i) / (4 + 3 * i) for i in range(1, 7))) / 7
    assert numbers(page, "`stcat, gt end -1`", "all")[:2] == ["7", f"{100 * expected:.2f}"]
    assert "| SpaceVLLM-7B | all | 56.9 | 39.3 | 66.6 | 36.9 |" in page

    settings = report["settings"]
    assert settings["sampling"]["preprocessing"]["video_maxlen"] == 6
    assert {"torch", "transformers", "llamafactory", "spacevllm_plugin"} <= settings["versions"].keys()
    assert f"`{settings['model']}`" in page and "`frame_sampling` | uniform" in page


def test_the_report_has_pictures(scored):
    report = json.loads((scored / "report.json").read_text())
    assert report["figures"] == ["figures/vIoU_distribution.png", "figures/tIoU_by_span_length.png"]
    worst = report["worst"]
    assert len(worst) == 6 and worst[0]["id"] == "hcstvg1/test/0_clip.mp4/0"
    assert worst[0]["vIoU"] == pytest.approx(1 / 3) and not any("gone" in item["id"] for item in worst)
    for path in (*report["figures"], *(item["picture"] for item in worst)):
        with Image.open(scored / path) as picture:
            assert len(picture.convert("L").getcolors()) > 10  # not an empty sheet

        assert f"({path})" in (scored / "report.md").read_text()


def test_a_run_is_not_continued_with_other_settings(model, data, finished, capsys):
    before = (finished / "predictions.jsonl").read_bytes()
    assert main(arguments(model, data, finished, "--limit", "3")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "holds a run with limit null, not 3: choose another --out" in error
    assert (finished / "predictions.jsonl").read_bytes() == before


def test_versions_may_change_only_when_all_is_predicted(model, data, finished, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    settings = json.loads((out / "settings.json").read_text())
    settings["versions"]["torch"] = "1.0"
    (out / "settings.json").write_text(json.dumps(settings))
    assert main(arguments(model, data, out)) == 0
    assert json.loads((out / "report.json").read_text())["settings"]["versions"]["torch"] == "1.0"

    lines = (out / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (out / "predictions.jsonl").write_bytes(b"".join(lines[1:]))
    assert main(arguments(model, data, out)) == 1
    assert "started with torch 1.0, now" in capsys.readouterr().err


def test_missing_data_are_named(model, data, tmp_path, capsys):
    assert main(arguments(model, data, tmp_path, name="vidstg")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "raw/vidstg/test_annotations.json, raw/vidor/validation, media/vidor" in error


def test_all_runs_what_is_there(model, data, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "media/egoschema").mkdir()
    write_video(folder / "media/egoschema/u1.mp4", 8, fps=2)
    item = {"q_uid": "u1", "question": "What?", **{f"option {i}": f"thing {i}" for i in range(5)}}
    (folder / "raw/egoschema").mkdir()
    (folder / "raw/egoschema/questions.json").write_text(json.dumps([item]))
    (folder / "raw/egoschema/subset_answers.json").write_text(json.dumps({"u1": 2}))
    (folder / "media/charades").mkdir()  # without its annotations
    # Found, but no benchmark's file: it stops, the others run.
    (folder / "raw/hcstvg2").mkdir()
    (folder / "raw/hcstvg2/valv2.json").write_text('{"a.mp4": {}}')

    assert main(arguments(model, folder, tmp_path / "out", "--limit", "2", name="all")) == 1
    printed = capsys.readouterr()
    assert "1 of 3 benchmarks stopped: hcstvg-v2" in printed.err.splitlines()[-1]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert list(report["reports"]) == ["hcstvg-v1", "egoschema"]
    assert report["reports"]["hcstvg-v1"]["scores"][0]["groups"]["all"]["n"] == 2
    assert list(report["failed"]) == ["hcstvg-v2"] and "malformed 1" in report["failed"]["hcstvg-v2"]
    assert report["missing"]["charades-sta"] == [
        "raw/charades/charades_sta_test.txt",
        "raw/charades/Charades_v1_test.csv",
    ]
    assert len(report["missing"]) == 8
    page = (tmp_path / "out/report.md").read_text()
    assert page in printed.out
    line = next(line for line in page.splitlines() if line.startswith("| hcstvg-v1 | all |"))
    assert "56.9 / 39.3 / 66.6 / 36.9" in line and "60.3 / 44.1 / 73.3 / 43.5" in line
    assert "**the first 2 rows only**" in (tmp_path / "out/hcstvg-v1/report.md").read_text()
    assert (tmp_path / "out/egoschema/figures/accuracy_by_group.png").exists()


def test_each_process_sees_its_own_gpu():
    environment = {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,6"}
    own_gpu(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "6"
    environment = {"LOCAL_RANK": "3"}
    own_gpu(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    environment = {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": ""}  # GPUs hidden on purpose stay hidden
    own_gpu(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == ""


def test_bad_usage(model, data, tmp_path):
    for more in (["--limit", "0"], ["--batch-size", "0"]):
        assert main(arguments(model, data, tmp_path, *more)) == 2
