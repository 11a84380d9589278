"""The process that LlamaBoard trains or evaluates one of our models in."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from ...backbones import registry


# What LLaMA-Factory's main branch calls the file, in the run's folder.
LOG = "webui_subprocess.log"
TAIL_BYTES = 20_000
# Of a launcher whose child has failed: the child has said more.
SECONDARY = ("subprocess.CalledProcessError", "torch.distributed.elastic.multiprocessing.errors.ChildFailedError")


class TrainerProcess(subprocess.Popen):
    """`llamafactory-cli` of this very environment, its standard error in a file.

    LLaMA-Factory 0.9.5 takes it through a pipe, which is read only while a page watches the run: with the page closed the
    pipe is full sooner or later, and the run stands still. Its pages show what `communicate` returns where a run fails.
    """

    def __init__(self, command: list[str], *, env: dict[str, str], **kwargs: Any) -> None:
        self._log = Path(command[-1]).with_name(LOG)
        # Without an activated environment, the commands beside its Python are not in the path.
        env = {**env, "PATH": os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])}
        with open(self._log, "ab") as log:
            self._start = log.tell()
            streams = {**kwargs, "stderr": log} if kwargs.get("stderr") == subprocess.PIPE else kwargs
            super().__init__(command, env=env, **streams)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[None, str]:
        """Wait for the end; returns what went wrong in place of standard error.

        Raises:
            TimeoutExpired: It has not ended in `timeout` seconds.
        """
        super().communicate(input, timeout)
        with open(self._log, "rb") as log:
            log.seek(max(self._start, os.path.getsize(self._log) - TAIL_BYTES))
            text = log.read().decode(errors="replace")

        return None, f"{reason(text)}\n\nAll it said: {self._log}"


def reason(text: str) -> str:
    """The message of the exception that ended a run, in as many lines as it has; all of the text where there is none.

    Args:
        text: The end of what the run said.
    """
    messages = []
    for block in text.split("Traceback (most recent call last):\n")[1:]:
        lines = block.splitlines()
        raised = next((number for number, line in enumerate(lines) if re.match(r"[\w.]+(:|$)", line)), None)
        if raised is not None and not lines[raised].startswith(SECONDARY):
            messages.append("\n".join(lines[raised:]).strip())

    return (messages or [text.strip()])[-1]


def choose_process(stock: type) -> Any:
    """What to call instead of `Popen`: ours where the run's template is ours."""

    def start(command: list[str], **kwargs: Any) -> subprocess.Popen:
        with open(command[-1], encoding="utf-8") as file:
            template = yaml.safe_load(file).get("template")

        return (stock if registry.of_template(template) is None else TrainerProcess)(command, **kwargs)

    return start
