"""The plugin is there after every kind of installation, costs others nothing, and leaves LLaMA-Factory alone."""

import json
import os
import subprocess
import sys
import sysconfig
import threading
import venv
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

import pytest
from runs import command, write_data

from spacevllm_plugin.backbones import registry


ROOT = Path(__file__).parents[1]
PROBE = "import llamafactory.data.template as t; print('spacevllm_qwen3_vl' in t.TEMPLATES)"


def without_path() -> dict[str, str]:
    """The environment without what would be found beside that which is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def python(interpreter: Path | str, code: str, **env) -> str:
    result = subprocess.run(
        [str(interpreter), "-c", code], capture_output=True, text=True, env={**without_path(), **env}, cwd="/"
    )
    print(result.stderr[-3000:])  # pytest shows it where the test fails
    assert result.returncode == 0
    return result.stdout.strip().splitlines()[-1]


@pytest.fixture
def bare_environment(tmp_path):
    """A virtual environment that sees our dependencies, but in which the plugin is not installed."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # A path line makes packages importable; the `.pth` files in that folder, ours among them, are not read again.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


@pytest.fixture
def source(tmp_path):
    """A copy of the sources, so that building leaves nothing behind in the checkout."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "spacevllm_plugin", "constraints", "setup.py", "pyproject.toml", "*.pth", "README.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in files:
        if (ROOT / name).exists():
            target = tmp_path / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())

    return tmp_path / "source"


@pytest.mark.parametrize("kind", ["plain", "editable", "wheel"])
def test_works_after_installation(bare_environment, source, tmp_path, kind):
    pip = [sys.executable, "-m", "pip", "--python", str(bare_environment), "install", "-q", "--no-deps", "--no-index"]
    pip += ["--no-build-isolation"]
    if kind == "wheel":
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
        subprocess.run([*build, "-w", str(tmp_path), str(source)], check=True, capture_output=True)
        target = [str(next(tmp_path.glob("*.whl")))]
    else:
        target = ["-e", str(source)] if kind == "editable" else [str(source)]

    result = subprocess.run([*pip, *target], capture_output=True, text=True, env=without_path())
    assert result.returncode == 0, result.stderr[-3000:]
    assert python(bare_environment, PROBE) == "True"
    assert python(bare_environment, PROBE, SPACEVLLM_DISABLE="1") == "False"
    package = ROOT / "spacevllm_plugin"
    data = [
        str(f.relative_to(package)) for f in package.rglob("*.*") if f.is_file() and f.suffix not in (".py", ".pyc")
    ]
    lost = f"[name for name in {data} if not files('spacevllm_plugin').joinpath(name).is_file()]"
    assert len(data) >= 3 and python(bare_environment, f"from importlib.resources import files; print({lost})") == "[]"


def test_registering_by_hand(bare_environment):
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import llamafactory.data.template as template
import spacevllm_plugin
spacevllm_plugin.register(); spacevllm_plugin.register()
print(sum(name.startswith("spacevllm") for name in template.TEMPLATES))
"""
    assert python(bare_environment, code) == str(len(registry.usable()))


def test_spawned_children_have_the_plugin():
    code = f"""
import multiprocessing, subprocess, sys
if __name__ == "__main__":
    print(subprocess.run([sys.executable, "-c", {PROBE!r}], capture_output=True, text=True).stdout.strip())
"""
    assert python(sys.executable, code) == "True"


def test_threads_that_import_at_once_are_all_hooked(monkeypatch):
    """A second thread comes while the first is still looking for its module."""
    from spacevllm_plugin import bootstrap

    first, second = ("llamafactory.hparams.parser", "llamafactory.data.template")
    finder, looking, found = bootstrap._Finder(), threading.Event(), threading.Event()

    class Slow:
        """Keeps the first thread waiting until the second has been served."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == first:
                looking.set()
                assert found.wait(60)

    monkeypatch.setattr(sys, "meta_path", [finder, Slow, PathFinder])
    package = Path(find_spec("llamafactory").origin).parent
    specs = {}

    def look(name):
        specs[name] = finder.find_spec(name, [str(package / name.split(".")[1])])

    thread = threading.Thread(target=look, args=(first,))
    thread.start()
    assert looking.wait(60)
    look(second)
    found.set()
    thread.join()
    assert all(isinstance(specs[name].loader, bootstrap._Loader) for name in (first, second))


def test_other_processes_pay_nothing():
    """In a process that imports torch and transformers, nothing of ours but the bootstrap is ever loaded."""
    code = """
import sys
at_start = set(sys.modules)
assert "spacevllm_plugin.bootstrap" in at_start, "the .pth file was not read"
assert not {"torch", "transformers", "numpy", "pydantic", "importlib.metadata"} & at_start
import torch, transformers
print(sorted(name for name in sys.modules if name.startswith("spacevllm_plugin")))
"""
    assert python(sys.executable, code) == "['spacevllm_plugin', 'spacevllm_plugin.bootstrap']"


def test_another_template_trains_as_without_the_plugin(tmp_path):
    """One of LLaMA-Factory's own recipes, with the plugin and without it: the same numbers to the last digit."""
    from spacevllm_plugin.backbones.tiny import make_tiny

    make_tiny("qwen2_5_vl", tmp_path / "base")
    conversation = [
        {"messages": [{"role": "user", "content": f"Count to {i}."}, {"role": "assistant", "content": "one two " * i}]}
        for i in range(1, 9)
    ]
    data = write_data(tmp_path / "data", [], plain={"file_name": "plain.json", "formatting": "openai",
        "columns": {"messages": "messages"}, "tags": {"role_tag": "role", "content_tag": "content",
        "user_tag": "user", "assistant_tag": "assistant"}})  # fmt: skip
    (data / "plain.json").write_text(json.dumps(conversation))
    recipe = {
        "model_name_or_path": str(tmp_path / "base"), "template": "qwen2_vl", "stage": "sft", "do_train": True,
        "finetuning_type": "lora", "lora_target": "all", "dataset_dir": str(data), "dataset": "plain",
        "cutoff_len": 256, "per_device_train_batch_size": 2, "max_steps": 4, "logging_steps": 1, "report_to": "none",
        "learning_rate": 1.0e-3, "save_strategy": "no", "overwrite_cache": True, "use_cpu": True, "seed": 7,
    }  # fmt: skip
    histories, files = {}, {}
    for disabled in ("0", "1"):
        out = tmp_path / f"out{disabled}"
        recipe_file = tmp_path / f"recipe{disabled}.json"
        recipe_file.write_text(json.dumps({**recipe, "output_dir": str(out)}))
        yaml_file = recipe_file.with_suffix(".yaml")
        yaml_file.write_text(recipe_file.read_text())  # JSON is YAML
        command("llamafactory-cli", "train", str(yaml_file), env={"SPACEVLLM_DISABLE": disabled})
        state = json.loads((out / "trainer_state.json").read_text())
        histories[disabled] = [
            {k: v for k, v in entry.items() if k in ("loss", "grad_norm", "learning_rate", "step")}
            for entry in state["log_history"]
        ]
        files[disabled] = (out / "adapter_model.safetensors").read_bytes()

    assert histories["0"] == histories["1"]
    assert files["0"] == files["1"]


@pytest.mark.parametrize(
    "edit, says",
    [
        ("compatibility.version = lambda name: '0.8.0'", "found LLaMA-Factory 0.8.0, supported is"),
        (
            "compatibility.EXPECTED['llamafactory.data.loader']['no_such_hook'] = None",
            "`llamafactory.data.loader.no_such_hook` does not exist; found LLaMA-Factory",
        ),
        (
            "compatibility.EXPECTED['llamafactory.model.loader']['load_config'] = ['other']",
            "takes ['model_args'] instead of ['other']",
        ),
    ],
)
def test_unknown_llamafactory_is_left_alone(edit, says):
    """One line on stderr, no traceback, nothing patched."""
    code = f"from spacevllm_plugin.integration import compatibility\n{edit}\n{PROBE}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False"
    (line,) = [line for line in result.stderr.splitlines() if "spacevllm" in line]
    assert line.startswith("spacevllm_plugin is inactive: ") and says in line
    assert "Traceback" not in result.stderr


def test_only_the_integration_imports_llamafactory():
    """The one rule of the layout."""
    package = ROOT / "spacevllm_plugin"
    for file in package.rglob("*.py"):
        if "integration" not in file.parts:
            lines = file.read_text().splitlines()
            assert not [l for l in lines if l.strip().startswith(("import llamafactory", "from llamafactory"))], file


@pytest.mark.parametrize("folder", ["modeling", "data", "evaluation", "unistg"])
def test_lower_layers_know_nothing_of_the_upper_ones(folder):
    for file in (ROOT / "spacevllm_plugin" / folder).rglob("*.py"):
        for line in file.read_text().splitlines():
            if line.strip().startswith("from .."):
                assert not any(f".{upper}" in line for upper in ("integration", "cli", "inference")), f"{file}: {line}"
