"""Whether what we stand on works together: each package imported and used for a moment, in a process of its own.

Metadata cannot tell. Releases that pip takes for compatible may be built for different versions of CUDA, and then
LLaMA-Factory ends in a stack trace at its first import.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .versions import TORCH_SET, installed, mend


PATIENCE = 300  # seconds; a cold disk may take one for an import of torch


@dataclass(frozen=True)
class Trial:
    """A few words of Python that a package must be able to run.

    Attributes:
        package: Its name for pip.
        code: What is run.
        needs: Packages without which it cannot work; where one has failed, this says nothing more.
        extra: Tried only where it is installed.
    """

    package: str
    code: str
    needs: tuple[str, ...] = ()
    extra: bool = False


BASE = (
    # Says which GPUs it sees.
    Trial(
        "torch",
        "import torch; torch.ones(2, 2) @ torch.ones(2, 2)\n"
        "print(*(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())), sep=', ')",
    ),
    Trial(
        "torchvision",
        "import torch, torchvision; torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)",
        ("torch",),
    ),
    Trial("torchaudio", "import torchaudio", ("torch",)),
)
TRIALS = (
    *BASE,
    Trial("av", "import av; av.codec.Codec('h264', 'r')"),
    # All model and processor classes that our backbones are made of.
    Trial(
        "transformers",
        "from spacevllm_plugin.backbones import registry, upgrade; upgrade.register_all(); [s.build_tiny for s in registry.usable()]",
        TORCH_SET[:2],
    ),
    Trial(
        "llamafactory",
        "import llamafactory.train.tuner, llamafactory.chat",
        (*TORCH_SET, "transformers", "av"),
    ),
    Trial("deepspeed", "import deepspeed", ("torch",), extra=True),
    Trial("flash-attn", "import flash_attn", ("torch",), extra=True),
    Trial("decord", "import decord", extra=True),
    Trial("torchcodec", "import torchcodec.decoders", ("torch",), extra=True),
    Trial("liger-kernel", "import liger_kernel.transformers", ("torch", "transformers"), extra=True),
    Trial("bitsandbytes", "import bitsandbytes", ("torch",), extra=True),
    Trial("lmms-eval", "import lmms_eval", ("torch", "transformers"), extra=True),
)


@dataclass(frozen=True)
class Outcome:
    """How a trial went.

    Attributes:
        said: What it printed.
        reason: Why it failed, in one line; None where it did not.
    """

    said: str = ""
    reason: str | None = None


def run_trials(trials: Iterable[Trial] = TRIALS) -> dict[str, Outcome]:
    """Try each package that is there or has to be; those whose needs have failed are left out, so only roots are blamed."""
    waiting = [trial for trial in trials if not trial.extra or installed(trial.package) is not None]
    outcomes: dict[str, Outcome] = {}
    broken: set[str] = set()
    with ThreadPoolExecutor(max_workers=2) as pool:
        while waiting:
            names = {trial.package for trial in waiting}
            ready = [trial for trial in waiting if not names & set(trial.needs)]
            waiting = [trial for trial in waiting if trial not in ready]
            tried = [trial for trial in ready if not broken & set(trial.needs)]
            for trial, outcome in zip(tried, pool.map(attempt, tried)):
                outcomes[trial.package] = outcome

            works = {package for package, outcome in outcomes.items() if outcome.reason is None}
            broken |= {trial.package for trial in ready} - works

    return outcomes


def failures(outcomes: dict[str, Outcome]) -> list[str]:
    """One line for each package that does not work, with the command that mends it."""
    return [
        f"{package} {installed(package) or '(not installed)'} does not work: {outcome.reason.rstrip('.')}. "
        f"Mend: {mend(package)}"
        for package, outcome in outcomes.items()
        if outcome.reason is not None
    ]


def attempt(trial: Trial) -> Outcome:
    """Run a trial in a child process."""
    # The plugin answers a failing import of LLaMA-Factory by these very trials.
    environment = {**os.environ, "SPACEVLLM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", trial.code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return Outcome(reason=f"no end of its import after {PATIENCE} s")

    if child.returncode < 0:
        return Outcome(reason=f"killed by signal {-child.returncode}")

    return Outcome(child.stdout.strip(), _reason(child.stderr) if child.returncode else None)


def _reason(stderr: str) -> str:
    """The first line of the exception that ended a process."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
    return (raised or lines or ["no word of why"])[-1][:240]


class BrokenEnvironment(ImportError):
    """An import failed because of a package that a trial has found broken; the message is its line."""


def explain(err: BaseException) -> str | None:
    """The line of the package to blame for an exception; None where it did not come from an import, or all works."""
    if isinstance(err, BrokenEnvironment):
        return str(err)

    traceback, importing = err.__traceback__, False
    while traceback is not None and not importing:
        importing = traceback.tb_frame.f_code.co_filename.startswith("<frozen importlib")
        traceback = traceback.tb_next

    lines = failures(run_trials(BASE)) if importing else []
    return lines[0] if lines else None
