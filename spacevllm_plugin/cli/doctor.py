"""`spacevllm-cli doctor`: the first thing to run, and to paste into a bug report."""

import argparse
import os
import platform
import sys

from ..backbones import registry
from ..trials import TRIALS, failures, run_trials
from ..versions import OURS, installed, promised
from .errors import CommandError


EXAMPLE = "spacevllm-cli doctor"

# Shown, but not tried by themselves.
OTHERS = ("peft", "trl", "accelerate", "datasets", "gradio")
PACKAGES = (OURS, *(trial.package for trial in TRIALS), *OTHERS)


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def find_problems() -> list[str]:
    """What keeps the plugin from working, beside the packages below it; each in one line."""
    from ..bootstrap import _Finder
    from ..integration.compatibility import find_problem

    problems = []
    if os.environ.get("SPACEVLLM_DISABLE") == "1":
        problems.append("SPACEVLLM_DISABLE=1 turns the plugin off in this environment")
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        problems.append("the .pth file was not read: install with pip, or call spacevllm_plugin.register() yourself")

    if installed("llamafactory") is not None and (problem := find_problem()) is not None:
        problems.append(problem)

    return problems


def find_hints() -> list[str]:
    """What may surprise, each in one line."""
    from .path_check import find_path_problem

    hints = []
    for package in [trial.package for trial in TRIALS]:
        requirement, version = promised(package), installed(package)
        if requirement and version and not requirement.specifier.contains(version, prereleases=True):
            hints.append(f"{package} {version} is outside {requirement.specifier}, what the tests ran with")

    hints += [*registry.broken(), *filter(None, (spec.find_problem() for spec in registry.specs()))]
    if installed("llamafactory") is not None and (problem := find_path_problem()) is not None:
        hints.append(problem)

    return hints


def run(args: argparse.Namespace) -> None:
    """Print versions, hooks, hints and problems."""
    from ..bootstrap import TOUCH_POINTS

    outcomes = run_trials()
    rows = [("python", platform.python_version()), (OURS, installed(OURS) or "on the path, not installed")]
    rows += [(trial.package, installed(trial.package) or "missing") for trial in TRIALS if not trial.extra]
    rows += [(name, installed(name) or "missing") for name in OTHERS]
    rows += [(f"{trial.package} (extra)", installed(trial.package) or "-") for trial in TRIALS if trial.extra]
    rows += [
        ("CUDA devices", outcomes["torch"].said or "none"),
        ("hooks", f"{len(TOUCH_POINTS)} modules of LLaMA-Factory"),
        ("backbones", ", ".join(spec.name for spec in registry.usable())),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")

    for hint in find_hints():
        print(f"\nhint: {hint}")

    if problems := [*failures(outcomes), *find_problems()]:
        raise CommandError("\n".join(problems))

    print("\nEach was imported and tried: nothing stands in the way.")
