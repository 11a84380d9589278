"""The real Ray: actors and a driver killed by SIGKILL, the bytes of one process."""

import json
import signal
import subprocess
from importlib.util import find_spec

import pytest
from conftest import write_video
from ray_parts import STARTS, Session, cluster, kill_a_worker, lines_in, start, wait_until
from tiny_detector import annotate_options
from unistg_parts import frame, read_lines, refined, server, vtg, write_lines

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.distributed.rounds import DIED
from spacevllm_plugin.unistg.stage import GAVE_UP


pytestmark = [pytest.mark.ray, pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed")]


@pytest.fixture(scope="module")
def running():
    with cluster(2, 2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def session():
    session = Session()
    yield session
    session.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray") / "base"
    make_tiny("qwen3_vl", folder)
    return folder


TINY = ("--max-new-tokens", "4", "--arg", "infer_dtype=float32", "--arg", "video_maxlen=6")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    write_set(folder, SynthConfig(num_videos=4, seed=4, tasks=("stvg", "vtg", "rec", "qa")))
    return folder / "annotations.jsonl"


def test_predict_whose_actor_and_driver_are_killed(running, model, data, tmp_path):
    def predict(out, *more):
        return ["predict", "--model", model, "--data", data, "--out", out, "--batch-size", "1", *TINY, *more]

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


@pytest.fixture
def place(data, monkeypatch):
    """Where rows and media lie: at an address, if the local S3 server is installed."""
    if not (find_spec("moto") and find_spec("s3fs")):
        yield str(data.parent)
        return

    from object_store import object_store

    with object_store() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)

        yield store.put_folder(data.parent, "s3://sets/synth")


def test_check_on_a_cluster_of_its_own(data, place, tmp_path):
    command = ["check", "--memory", str(tmp_path / "m"), "--json"]
    assert main([*command, str(tmp_path / "alone.json"), str(data), "--workers", "1"]) == 0
    (tmp_path / "m").unlink()
    command += [tmp_path / "shared.json", f"{place}/annotations.jsonl", "--ray", "--ray-workers", 2]
    for _ in range(STARTS):  # see `ray_parts`
        driver = start(*command, stderr=subprocess.PIPE, text=True)
        told = driver.communicate()[1]
        if "no local cluster came up" not in told:
            break

    assert driver.returncode == 0, told
    assert json.loads((tmp_path / "shared.json").read_text()) == json.loads((tmp_path / "alone.json").read_text())


def test_a_cluster_that_is_too_small_is_one_line(running, session, data, tmp_path):
    command = ["check", data, "--memory", tmp_path / "m", "--ray", running.address, "--ray-workers", 9]
    code, said = session(*command)
    assert code == 1
    assert said.splitlines()[-1] == "spacevllm-cli check: Ray: 9 workers wanted, the cluster has 4 CPUs"


def benchmark(folder, model):
    """HC-STVG of two videos."""
    media, raw = folder / "media" / "hcstvg", folder / "raw" / "hcstvg1"
    media.mkdir(parents=True)
    raw.mkdir(parents=True)
    item = {"bbox": [[2, 4, 20, 30]] * 9, "st_frame": 3, "img_num": 40, "width": 48, "height": 48}
    (raw / "test.json").write_text(json.dumps({f"{i}.mp4": {**item, "caption": f"The man {i}."} for i in range(2)}))
    for i in range(2):
        write_video(media / f"{i}.mp4", 40, fps=2, first=40 * i)

    return ["hcstvg-v1", "--model", model, "--data-dir", folder, *TINY], ["/predictions.jsonl", "/report.json"]


def convert(folder, model):
    """Charades-STA, one of whose videos is broken."""
    (folder / "charades").mkdir()
    for name in ("0", "1"):
        write_video(folder / "charades" / f"{name}.mp4", 8)

    (folder / "charades" / "2.mp4").write_bytes(b"no video")
    raw = folder / "raw.txt"
    raw.write_text("".join(f"{name} 0.0 1.0##person {what}.\n" for name in "0123" for what in ("sits", "stands")))
    return ["charades-sta", "--annotations", raw, "--media-dir", folder, "--split", "test"], ["", ".summary.json"]


STAGE_FILES = ["", ".rejects.jsonl", ".counts.json"]


def annotate(folder, model):
    """Six rows, in two pieces; a video is not there."""
    return ["annotate", *annotate_options(folder)], STAGE_FILES


@pytest.mark.parametrize(
    "name, make",
    [("benchmark", benchmark), ("convert", convert), ("unistg", annotate)],
    ids=["benchmark", "convert", "annotate"],
)
def test_a_command_is_that_of_one_process(name, make, running, session, model, tmp_path):
    command, files = make(tmp_path, model)
    whole, out = tmp_path / "a" / "out.jsonl", tmp_path / "b" / "out.jsonl"
    assert main([name, *map(str, command), "--out", str(whole)]) == 0
    code, said = session(name, *command, "--out", out, "--ray", running.address, "--ray-workers", 1)
    assert code == 0, said
    for suffix in files:
        part = (whole.parent / f"{whole.name}{suffix}").read_bytes()
        assert (out.parent / f"{out.name}{suffix}").read_bytes() == part != b""


def test_a_row_that_kills_its_workers_is_rejected_alone(running, session, tmp_path):
    frames = [frame(n, (0, 0.5, 10, 10, 20, 20), subject=0) for n in range(60)]
    data = write_lines(tmp_path / "in.jsonl", [refined(name, frames) for name in "abc"])
    command = ["unistg", "filter", "--data", data, "--out"]
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert main(list(map(str, [*command, whole]))) == 0
    shared = ["--ray", running.address, "--ray-workers", 1, "--retries", 0]
    code, said = session(*command, out, *shared, poison="b")
    assert code == 0 and f"000000 (3 items): {DIED}; in 3 parts from here" in said
    lines = whole.read_bytes().splitlines(keepends=True)
    assert out.read_bytes() == lines[0] + lines[2]
    (lost,) = read_lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert (lost["id"], lost["reason"], lost["detail"]) == ("b", GAVE_UP, DIED)


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
