"""The rooms of the backbones: found without a list, loaded only when they are used, and named nowhere else."""

import io
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import transformers
from conftest import BACKBONES

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.prompter import Prompter
from spacevllm_plugin.backbones.spec import BackboneSpec
from spacevllm_plugin.backbones.upgrade import spec_of
from spacevllm_plugin.modeling.grounding_model import SpaceVLLMMixin


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "spacevllm_plugin"
ROOMS = sorted(file.parent for file in PACKAGE.glob("backbones/*/spec.py"))


def child(code, **environment):
    """Run Python in a process of its own; returns what it prints."""
    environment = {**os.environ, **environment}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_listing_them_imports_nothing_heavy():
    code = (
        "import sys; from spacevllm_plugin.backbones import registry; registry.specs()\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'torch', 'transformers', 'llamafactory', 'numpy'}), *registry.names())"
    )
    assert child(code).split() == ["[]", *registry.names()]


@pytest.mark.parametrize("spec", registry.usable(), ids=lambda spec: spec.name)
def test_a_spec_names_what_is_there(spec):
    assert spec.config_class.model_type == spec.model_type == f"spacevllm_{spec.name}"
    assert issubclass(spec.model_class, SpaceVLLMMixin) and spec.model_class.config_class is spec.config_class
    assert issubclass(spec.prompter_class, Prompter) and callable(spec.build_tiny)
    assert hasattr(transformers, spec.processor_class)
    tokens = spec.prompter_class.image_token, spec.prompter_class.video_token
    assert tokens == (spec.image_token, spec.video_token) and spec.image_token != spec.video_token


def test_they_are_found_by_name_template_and_model_type():
    for spec in registry.specs():
        assert registry.of_template(spec.template) is spec
        assert registry.of_model_type(spec.name) is registry.of_model_type(spec.model_type) is spec

    assert registry.of_template("qwen2_vl") is registry.of_model_type("llama") is registry.of_template(None) is None
    with pytest.raises(registry.UnknownBackbone, match="no backbone 'llama'; there are: .*llava_onevision, "):
        registry.get("llama")


def without_comments(source):
    """Python without its comments and docstrings."""
    kept, fresh = [], True  # fresh: a string here would be a statement of its own
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING and fresh:
            continue

        if token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            fresh = True
        elif token.type != tokenize.COMMENT:
            kept.append(token.string)
            fresh = False

    return "\n".join(kept)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_backbone_is_named_in_its_own_room_only(room):
    """Its name, its template and its classes of transformers; a family's rooms may be named by one another."""
    spec = registry.get(room.name)
    stock = {base.__name__ for base in (spec.config_class.__mro__[2], spec.model_class.__mro__[-1])} - {"object"}
    stock |= {spec.processor_class, *spec.hub_ids.values()}
    names = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in {room.name, spec.model_type, *stock}))
    files = [file for file in PACKAGE.rglob("*.py") if PACKAGE / "backbones" not in file.parents]
    files += list((PACKAGE / "backbones").glob("*.py"))
    assert len(files) > 100
    assert not [str(file) for file in files if names.search(without_comments(file.read_text(encoding="utf-8")))]


def test_the_readme_lists_them_all():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {
        cells[0].strip("`"): cells[1:]
        for line in readme.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
        and cells[0].startswith("`spacevllm")
    }
    own = [registry.get(room.name) for room in ROOMS]
    assert rows == {
        spec.template: [
            spec.title,
            "temporal patch" if spec.temporal_patch_size > 1 else "frame",
            "; ".join(spec.limits),
        ]
        for spec in own
    }


def test_a_backbone_that_transformers_lacks_is_one_line_and_the_others_go_on(monkeypatch):
    spec = registry.get("qwen3_vl")
    late = BackboneSpec(**{**vars(spec), "transformers": ">=99"})
    problem = f"{spec.title} needs transformers>=99; installed is {transformers.__version__}"
    assert late.find_problem() == problem and spec.find_problem() is None
    monkeypatch.setattr(registry, "get", lambda name: late if name == "qwen3_vl" else spec)
    with pytest.raises(registry.UnknownBackbone, match=f"somewhere: {problem}"):
        spec_of("qwen3_vl", "somewhere")


# Backbones of other packages.

GUEST = ROOT / "tests" / "guest_backbone"


@pytest.fixture(scope="module")
def guest_path(tmp_path_factory):
    """A package that brings a backbone, installed by pip into a folder of its own."""
    out, source = tmp_path_factory.mktemp("guest"), tmp_path_factory.mktemp("source") / "guest"
    shutil.copytree(GUEST, source)  # pip builds beside it
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    result = subprocess.run([*pip, "--target", str(out), str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return os.pathsep.join([str(out), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_another_package_brings_a_backbone(guest_path):
    code = "from spacevllm_plugin.backbones import registry; print(*(s.name for s in registry.specs()), registry.broken())"
    names = sorted([*BACKBONES, "qwen2_vl"])
    assert child(code, PYTHONPATH=guest_path).split() == [*names, "()"]


def test_a_guest_passes_the_conformance_suite(guest_path):
    """What it must do is not what ours happen to do; the slowest parts are left to those who write one."""
    files = [
        str(ROOT / "tests" / "conformance" / f"test_{name}.py") for name in ("boxes", "checkpoints", "prompts", "tiny")
    ]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "qwen2_vl", *files]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": guest_path}
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", result.stdout).group(1)) > 60


def test_a_broken_guest_is_named_and_left_out(tmp_path):
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    entries = ("gone = no_such_package:SPEC", "odd = spacevllm_plugin:__version__", "qwen3_vl = elsewhere:SPEC")
    (metadata / "entry_points.txt").write_text("[spacevllm.backbones]\n" + "\n".join(entries))
    code = (
        "from spacevllm_plugin.backbones import registry\n"
        "print(*(spec.name for spec in registry.specs()))\n"
        "print(*registry.broken(), sep='\\n')"
    )
    names, *lines = child(code, PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}").splitlines()
    assert names.split() == list(BACKBONES)
    assert lines == [
        "backbone qwen3_vl: elsewhere:SPEC has a name of ours",
        "backbone gone: no_such_package:SPEC does not load (ModuleNotFoundError: No module named 'no_such_package')",
        "backbone odd: spacevllm_plugin:__version__ is not a BackboneSpec of this name",
    ]
