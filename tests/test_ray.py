"""The real Ray: actors and a driver killed by SIGKILL, the bytes of one process."""

import json
import signal
import subprocess
from importlib.util import find_spec

import pytest
from ray_parts import STARTS, cluster, kill_a_worker, lines_in, start, wait_until
from unistg_parts import server, vtg, write_lines

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set


pytestmark = [pytest.mark.ray, pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed")]


@pytest.fixture(scope="module")
def running():
    with cluster(2, 2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    write_set(folder, SynthConfig(num_videos=4, seed=4, tasks=("stvg", "vtg", "rec", "qa")))
    return folder / "annotations.jsonl"


def test_predict_whose_actor_and_driver_are_killed(running, data, tmp_path):
    model = tmp_path / "base"
    make_tiny("qwen3_vl", model)

    def predict(out, *more):
        return [
            *("predict", "--model", model, "--data", data, "--out", out, "--batch-size", "1"),
            *("--max-new-tokens", "4", "--arg", "infer_dtype=float32", "--arg", "video_maxlen=6", *more),
        ]

    whole, out = tmp_path / "whole.jsonl", tmp_path / "p.jsonl"
    assert main([str(part) for part in predict(whole)]) == 0
    shared = predict(out, "--ray", running.address, "--ray-workers", "2")
    shards = tmp_path / "p.jsonl.shards"
    driver = start(*shared)
    wait_until(lambda: lines_in(shards) >= 1, driver)
    kill_a_worker(running)
    before = lines_in(shards)
    wait_until(lambda: lines_in(shards) > before, driver)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL and not out.exists()

    driver = start(*shared, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    printed, told = driver.communicate()
    assert driver.returncode == 0, told
    assert out.read_bytes() == whole.read_bytes() and not shards.exists()
    assert printed.endswith(f"0 skipped: {out}\n") and "row/s" in told
    assert len(out.read_bytes().splitlines()) == len(list(read_rows(data)))


def test_check_on_a_cluster_of_its_own(data, tmp_path):
    command = ["check", str(data), "--memory", str(tmp_path / "m"), "--json"]
    assert main([*command, str(tmp_path / "alone.json"), "--workers", "1"]) == 0
    (tmp_path / "m").unlink()
    for _ in range(STARTS):  # see `ray_parts`
        driver = start(
            *command, tmp_path / "shared.json", "--ray", "--ray-workers", 2, stderr=subprocess.PIPE, text=True
        )
        told = driver.communicate()[1]
        if "no local cluster came up" not in told:
            break

    assert driver.returncode == 0, told
    assert json.loads((tmp_path / "shared.json").read_text()) == json.loads((tmp_path / "alone.json").read_text())


def test_a_cluster_that_is_too_small_is_one_line(running, data, tmp_path):
    command = ["check", data, "--memory", tmp_path / "m", "--ray", running.address, "--ray-workers", 9]
    driver = start(*command, stderr=subprocess.PIPE, text=True)
    lines = driver.communicate()[1].splitlines()
    assert driver.returncode == 1
    assert lines[-1] == "spacevllm-cli check: Ray: 9 workers wanted, the cluster has 4 CPUs"


def test_a_stage_whose_actor_is_killed_and_whose_node_leaves(running, tmp_path):
    captions = [f"the man {i} that runs" if i % 5 else f"nothing {i} to see" for i in range(900)]
    data = write_lines(tmp_path / "in.jsonl", [vtg(str(i), caption) for i, caption in enumerate(captions)])
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    with server("--delay", "0.15") as model:
        command = ["unistg", "analyze", "--data", data, "--base-url", model.url, "--model", "tiny", "--timeout", "60"]
        assert start(*command, "--out", whole, "--concurrency", 64).wait() == 0
        # One on each CPU: two on the node that leaves.
        driver = start(*command, "--out", out, "--concurrency", 4, "--ray", running.address)
        wait_until(lambda: lines_in(partial) > 1, driver)
        kill_a_worker(running)
        before = lines_in(partial)
        wait_until(lambda: lines_in(partial) > before, driver)
        running.lose_one()
        assert driver.poll() is None, "it was over before"
        assert driver.wait() == 0

    for suffix in ("", ".rejects.jsonl", ".counts.json"):
        assert (tmp_path / f"out.jsonl{suffix}").read_bytes() == (tmp_path / f"whole.jsonl{suffix}").read_bytes()
