"""Whether LLaMA-Factory, which starts its own commands by their bare names, finds those of this environment."""

import os
import shutil
import sysconfig
from importlib.metadata import distribution
from pathlib import Path


COMMAND = "llamafactory-cli"


def find_path_problem() -> str | None:
    """One line where LlamaBoard would not find its own trainer, or another environment's; None where all is well.

    `llamafactory-cli webui` runs `llamafactory-cli train`, and with several GPUs that runs `torchrun`: both come from
    `PATH`, not from the folder that `llamafactory-cli` itself was started from.
    """
    own, found = _own_command(), shutil.which(COMMAND)
    if found is not None and Path(found).resolve() == own.resolve():
        return None

    activate = own.with_name("activate")
    mend = f"source {activate}" if activate.is_file() else f'export PATH="{own.parent}{os.pathsep}$PATH"'
    where = "is not on PATH" if found is None else f"on PATH is {found}, of another environment"
    return f"`{COMMAND}` {where}: `{COMMAND} webui` would not find this environment's trainer; first run `{mend}`"


def _own_command() -> Path:
    """Where pip put this environment's command: it knows better than the interpreter, for instance of `--user`."""
    files = distribution("llamafactory").files or []
    own = next((file for file in files if file.name in (COMMAND, f"{COMMAND}.exe")), None)
    return Path(os.path.abspath(own.locate())) if own else Path(sysconfig.get_path("scripts"), COMMAND)
