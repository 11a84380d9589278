"""The scripts under examples/cluster/: the shell takes them, and what they name is there."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from llamafactory.hparams import parser as hparams_parser
from transformers import HfArgumentParser

from spacevllm_plugin.cli.main import COMMANDS, build_parser


ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path for path in (ROOT / "examples" / "cluster").iterdir() if path.suffix in (".sh", ".sbatch"))
BATCH = [path for path in SCRIPTS if path.suffix == ".sbatch"]


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


def lines(path):
    """Lines of a script, those that go on behind a backslash as one; examples in comments, too."""
    return path.read_text(encoding="utf-8").replace("\\\n#", " ").replace("\\\n", " ").splitlines()


def test_scripts_are_found():
    assert len(SCRIPTS) >= 5 and len(BATCH) >= 4


@each(SCRIPTS)
def test_the_shell_takes_it(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n") and "\nset -euo pipefail\n" in text
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--severity=warning", "--shell=bash", str(path)], check=True)


@each(SCRIPTS)
def test_without_arguments_it_says_how_it_is_called(path):
    said = subprocess.run(["bash", str(path)], capture_output=True, text=True)
    assert said.returncode == 2 and said.stderr.startswith("usage: ") and len(said.stderr.splitlines()) == 1


@each(SCRIPTS)
def test_files_that_it_names_are_there(path):
    named = re.findall(r"(?:examples|docs)/[\w/.-]+\.\w+", path.read_text(encoding="utf-8"))
    assert f"examples/cluster/{path.name}" in named, "no example of how to call it"
    for file in named:
        assert (ROOT / file).is_file(), file

    for script in re.findall(r"\bslurm_\w+\.sbatch", path.read_text(encoding="utf-8")):
        assert (path.parent / script).is_file()


@each(SCRIPTS)
def test_options_of_ours_that_it_names_exist(path):
    for line in lines(path):
        found = re.search(rf"\bspacevllm-cli ({'|'.join(COMMANDS)})\b(.*)", line)
        if found:
            known = build_parser(found[1])._option_string_actions
            assert set(re.findall(r"(?<!\S)--[\w-]+", found[2])) <= set(known), line


@each(SCRIPTS)
def test_options_of_llamafactory_that_it_names_exist(path):
    known = {action.dest for action in HfArgumentParser(hparams_parser._TRAIN_ARGS)._actions}
    for line in lines(path):
        if ".yaml" in line or "llamafactory-cli train" in line:
            assert set(re.findall(r"""(?:^|[\s"'])([a-z_]+)=""", line)) <= known, line


@each(BATCH)
def test_slurm_reads_its_options(path):
    head = path.read_text(encoding="utf-8").partition("\nset -")[0]
    options = [word for line in re.findall(r"^#SBATCH (.*)$", head, re.MULTILINE) for word in shlex.split(line)]
    assert {"--job-name", "--nodes", "--output"} <= {option.partition("=")[0] for option in options}
    # A folder that is not there would be the end of the job, without a word.
    assert all("/" not in option for option in options)


def test_recipe_reserves_by_ray():
    recipe = yaml.safe_load((ROOT / "examples/cluster/spacevllm_qwen3_vl_lora_ray.yaml").read_text(encoding="utf-8"))
    assert recipe["ray_num_workers"] == 8 and recipe["data_shared_file_system"] is True
