"""The process that LlamaBoard starts for a run of ours."""

import os
import subprocess

import pytest
import yaml


PYTHONPATH = os.environ.get("PYTHONPATH", "")
TEN_MEGABYTES = 'import sys\nfor _ in range(10):\n    sys.stderr.write("a warning of some library\\n" * 40_000)\n'


@pytest.fixture
def start(tmp_path):
    """Starts LLaMA-Factory as its page does: a recipe in a run's folder, standard error in a pipe."""
    from llamafactory.webui import runner

    # Every Python process of the run begins by printing 10 MB, whatever else it does.
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "sitecustomize.py").write_text(TEN_MEGABYTES)

    def start_one(**recipe):
        file = tmp_path / "training_args.yaml"
        file.write_text(yaml.safe_dump({"model_name_or_path": "none", "output_dir": str(tmp_path), **recipe}))
        # `llamafactory-cli` is not in this path.
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": f"{tmp_path / 'noise'}:{PYTHONPATH}"}
        command = ["llamafactory-cli", "train", str(file)]
        return runner.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    return start_one


def test_a_run_that_prints_ten_megabytes_ends_though_nobody_reads_them(start, tmp_path):
    process = start(template="spacevllm_qwen3_vl", stage="dpo", dataset="none")
    assert process.wait(timeout=300) == 1
    assert (tmp_path / "webui_subprocess.log").stat().st_size > 10_000_000
    _, said = process.communicate(timeout=2)
    first, *rest = said.splitlines()
    assert first == "ValueError: SpaceVLLM trains with `stage: sft`, not `dpo`."
    assert "Traceback" not in said and "warning" not in said


def test_runs_of_others_are_started_as_without_us(tmp_path):
    from llamafactory.webui import runner

    (tmp_path / "llamafactory-cli").write_text("#!/bin/sh\necho stock >&2\n")
    (tmp_path / "llamafactory-cli").chmod(0o755)
    (tmp_path / "training_args.yaml").write_text("template: qwen3_vl_nothink\n")
    command = ["llamafactory-cli", "train", str(tmp_path / "training_args.yaml")]
    process = runner.Popen(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, stderr=subprocess.PIPE, text=True)
    assert type(process) is subprocess.Popen and process.communicate()[1] == "stock\n"


def test_several_lines_of_an_error_are_shown_and_a_launcher_s_own_error_is_not():
    from spacevllm_plugin.integration.webui.process import reason

    said = (
        "a warning\n"
        "Traceback (most recent call last):\n"
        '  File "x.py", line 1, in <module>\n'
        "    raise ValueError()\n"
        "spacevllm_plugin.data.rules.BadRows: 2 rows cannot be used:\n"
        "  rows.jsonl:1: no such video\n"
        "  rows.jsonl:2: no such video\n"
        "Traceback (most recent call last):\n"
        '  File "launcher.py", line 1, in <module>\n'
        "subprocess.CalledProcessError: Command '['torchrun']' returned non-zero exit status 1.\n"
    )
    assert reason(said).splitlines()[1:] == ["  rows.jsonl:1: no such video", "  rows.jsonl:2: no such video"]
    assert reason("Killed\n") == "Killed"
