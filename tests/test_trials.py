"""A set of packages that does not work together is one line with its mend, wherever it shows first."""

import os
import subprocess
import sys
import sysconfig
import venv

import pytest

from spacevllm_plugin import versions
from spacevllm_plugin.trials import BASE, TRIALS, Outcome, Trial, attempt, explain, failures, run_trials


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """An environment whose torchaudio was built for another CUDA, as torch 2.15's neighbours say it."""
    folder = tmp_path_factory.mktemp("broken") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "torchaudio").mkdir()
    (site / "torchaudio" / "__init__.py").write_text(
        'raise RuntimeError("Detected that PyTorch and TorchAudio were compiled with different CUDA versions.")\n'
    )
    # Its own torchaudio stands before that of the tests' environment; ours is loaded as there, by a `.pth` line.
    (site / "dependencies.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n{os.path.dirname(os.path.dirname(versions.__file__))}\n"
        "import spacevllm_plugin.bootstrap; spacevllm_plugin.bootstrap.install()\n"
    )
    return folder / "bin" / "python"


def run(python, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([python, *arguments], capture_output=True, text=True, env=environment, cwd="/")


CALLS = {
    "train": ["llamafactory-cli", "llamafactory.cli", "train", "no.yaml"],
    "doctor": ["spacevllm-cli", "spacevllm_plugin.cli.main", "doctor"],
    "predict": ["spacevllm-cli", "spacevllm_plugin.cli.main", "predict", "--model", "{model}", "--data", "{data}"],
}


@pytest.mark.parametrize("call", CALLS)
def test_a_broken_set_is_one_line_with_its_mend(broken, call, tiny_base, synthetic_set, tmp_path):
    name, module, *arguments = CALLS[call]
    places = {"model": tiny_base("qwen3_vl"), "data": synthetic_set.folder / "annotations.jsonl"}
    arguments = [argument.format(**places) for argument in arguments]
    arguments += ["--out", str(tmp_path / "p.jsonl")] if call == "predict" else []
    code = f"import sys; sys.argv = {[name, *arguments]!r}; from {module} import main; sys.exit(main())"
    result = run(broken, "-c", code)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert "torchaudio" in line and "compiled with different CUDA versions" in line and "Mend: pip install" in line
    assert "Traceback" not in result.stdout + result.stderr


def test_where_no_command_was_typed_the_line_is_an_exception(broken):
    code = """
try:
    import llamafactory.data
except ImportError as err:
    print(type(err).__name__, str(err).partition(" does not work")[0].split()[0])
"""
    assert run(broken, "-c", code).stdout.split() == ["BrokenEnvironment", "torchaudio"]


def test_everything_works_here():
    assert failures(run_trials(BASE)) == []


def test_roots_only_are_blamed():
    trials = (
        Trial("torch", "raise ImportError('libcudart.so.13: cannot open shared object file')"),
        Trial("torchaudio", "1 / 0", ("torch",)),
        Trial("llamafactory", "1 / 0", ("torchaudio",)),
        Trial("av", "print('fine')"),
        Trial("no-such-package", "1 / 0", extra=True),
    )
    outcomes = run_trials(trials)
    assert outcomes["av"] == Outcome("fine")
    (line,) = failures(outcomes)
    assert line.startswith(f"torch {versions.installed('torch')} does not work: ImportError: libcudart.so.13")


@pytest.mark.parametrize(
    "code, reason",
    [
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
    ],
)
def test_reasons(code, reason):
    assert attempt(Trial("x", code)).reason == reason


def test_errors_that_no_import_raised_are_not_explained():
    assert explain(RuntimeError("CUDA out of memory")) is None


def test_the_mend_names_what_is_not_as_tested(monkeypatch):
    found = {"torch": "2.15.0", "torchvision": "0.29.2", "torchaudio": versions.tested("torchaudio")}
    monkeypatch.setattr(versions, "installed", found.get)
    wanted = [f'"{name}=={versions.tested(name)}"' for name in ("torch", "torchvision")]
    assert versions.mend("torchaudio") == f"pip install {' '.join(wanted)}"
    found["torch"] = f"{versions.tested('torch')}+cpu"  # another build of the same release
    assert versions.mend("torchaudio") == f"pip install {wanted[1]}"
    found["torchvision"] = versions.tested("torchvision")
    assert versions.mend("torchaudio").startswith('pip install --force-reinstall --no-deps "torch==')


def test_extras_are_mended_into_their_range():
    assert versions.mend("torchcodec") == f'pip install "torchcodec{versions.promised("torchcodec").specifier}"'


def test_every_package_that_is_tried_has_a_range():
    assert all(versions.promised(trial.package) is not None for trial in TRIALS)
