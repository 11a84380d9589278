"""Every stage, killed by SIGKILL in real processes and started again, ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import write_video
from tiny_detector import write_tiny_detector
from unistg_parts import annotated, frame, read_lines, refined, server, vtg, write_lines

from spacevllm_plugin.unistg.rows import Analyzed


CODE = "import sys; from spacevllm_plugin.cli.main import main; sys.exit(main())"
MANY = 4000


def start(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
    arguments = [sys.executable, "-c", CODE, "unistg", *map(str, command)]
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)


def kill_when_it_has(partial, lines, process):
    """SIGKILL as soon as the partial file has so many lines."""
    deadline = time.time() + 400
    while time.time() < deadline and process.poll() is None:
        if partial.exists() and partial.read_bytes().count(b"\n") >= lines:
            break

        time.sleep(0.01)

    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before the kill"


def beside(out):
    return {suffix: out.with_name(out.name + suffix) for suffix in ("", ".rejects.jsonl", ".counts.json")}


def killed_and_whole(command, data, tmp_path, kills):
    """Run uninterrupted; run with kills, a torn line after each; compare. Returns the lines there at the last kill."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    assert start(*command, "--data", data, "--out", whole).wait() == 0
    finished = 1
    for _ in range(kills):
        kill_when_it_has(partial, finished + 1, start(*command, "--data", data, "--out", out))
        assert not out.exists()
        lines = partial.read_bytes().splitlines(keepends=True)
        assert len(lines) > finished
        finished = len(lines) - (not lines[-1].endswith(b"\n"))
        with open(partial, "ab") as file:
            file.write(lines[1][: len(lines[1]) // 2])

    assert start(*command, "--data", data, "--out", out).wait() == 0
    assert not partial.exists() and not list(tmp_path.glob("*.tmp"))
    for suffix, path in beside(whole).items():
        assert beside(out)[suffix].read_bytes() == path.read_bytes(), suffix

    counts = json.loads(beside(out)[".counts.json"].read_text())
    assert counts["in"] == len(data.read_text().splitlines())
    assert counts["out"] == len(read_lines(out)) > 0
    assert sum(counts["rejected"].values()) == len(read_lines(beside(out)[".rejects.jsonl"])) > 0
    return finished - 1


def test_analyze(tmp_path):
    captions = [f"the man {i} that runs" if i % 5 else f"nothing {i} to see" for i in range(60)]
    data = write_lines(tmp_path / "in.jsonl", [vtg(str(i), caption) for i, caption in enumerate(captions)])
    with server("--delay", "0.3") as running:
        command = ["analyze", "--base-url", running.url, "--model", "tiny", "--concurrency", "4", "--timeout", "30"]
        finished = killed_and_whole(command, data, tmp_path, kills=2)
        asked = len(running.seen()["requests"])

    # 60 by the whole run; of the other's no finished caption is asked again, only up to 4 that each kill cut short
    # and those whose answers had not reached the disk.
    assert 120 <= asked < 120 + 60 and finished > 1


def test_annotate(tmp_path):
    checkpoint = write_tiny_detector(tmp_path / "tiny")
    write_video(tmp_path / "v.mp4", 60)
    rows = [
        Analyzed(
            id=str(i),
            source=vtg(str(i), "the man", (i % 30, 30 + i % 30), 4.0, 60, "v.mp4" if i % 4 else "gone.mp4", (48, 48)),
            objects=["man", "red circle"],
        )
        for i in range(16)
    ]
    data = write_lines(tmp_path / "in.jsonl", rows)
    command = ["annotate", "--media-dir", tmp_path, "--detector", checkpoint, "--device", "cpu"]
    assert killed_and_whole(command, data, tmp_path, kills=1) >= 1


@pytest.fixture
def frames():
    box = (0, 0.5, 10, 10, 20, 20)
    return [frame(n, box, (1, 0.4, 30, 30, 40, 40), subject=0) for n in range(60)]


def test_refine(tmp_path, frames):
    rows = [annotated(str(i), frames[: 60 if i % 3 else 40]) for i in range(MANY)]
    data = write_lines(tmp_path / "in.jsonl", rows)
    assert killed_and_whole(["refine"], data, tmp_path, kills=2) >= 2


def test_filter(tmp_path, frames):
    jump = [*frames[:30], *(frame(n, (0, 0.5, 10, 10, 40, 40), subject=0) for n in range(30, 60))]
    rows = [refined(str(i), frames if i % 3 else jump) for i in range(MANY)]
    data = write_lines(tmp_path / "in.jsonl", rows)
    assert killed_and_whole(["filter"], data, tmp_path, kills=2) >= 2
