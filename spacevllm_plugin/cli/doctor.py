"""`spacevllm-cli doctor`: the first thing to run, and to paste into a bug report."""

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from .errors import CommandError


EXAMPLE = "spacevllm-cli doctor"

PACKAGES = (
    "spacevllm_plugin",
    "llamafactory",
    "transformers",
    "torch",
    "torchvision",
    "peft",
    "trl",
    "accelerate",
    "av",
)
EXTRAS = ("deepspeed", "flash-attn", "decord", "torchcodec", "liger-kernel", "bitsandbytes")


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def installed(package: str) -> str | None:
    """Version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def find_problems() -> list[str]:
    """What would not work, each in one line."""
    import sys

    from ..bootstrap import _Finder
    from ..integration.compatibility import find_problem

    problems = []
    if os.environ.get("SPACEVLLM_DISABLE") == "1":
        problems.append("SPACEVLLM_DISABLE=1 turns the plugin off in this environment")
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        problems.append("the .pth file was not read: install with pip, or call spacevllm_plugin.register() yourself")

    if (problem := find_problem()) is not None:
        problems.append(problem)

    if installed("transformers") == "5.6.0":
        problems.append("transformers 5.6.0 breaks flash-attention: use another release")

    if (installed("torch") or "").startswith("2.9."):
        problems.append("LLaMA-Factory refuses torch 2.9 with the Conv3D of the Qwen-VL vision towers")

    return problems


def run(args: argparse.Namespace) -> None:
    """Print versions, hooks and problems."""
    import torch

    from ..bootstrap import TOUCH_POINTS
    from ..modeling.configuration import UPGRADES

    rows = [("python", platform.python_version())]
    rows += [(name, installed(name) or "missing") for name in PACKAGES]
    rows += [(f"{name} (extra)", installed(name) or "-") for name in EXTRAS]
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows += [("CUDA devices", ", ".join(devices) or "none")]
    rows += [("backbones", ", ".join(UPGRADES)), ("hooks", f"{len(TOUCH_POINTS)} modules of LLaMA-Factory")]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")

    problems = find_problems()
    if problems:
        raise CommandError("; ".join(problems))

    print("\nNothing stands in the way.")
