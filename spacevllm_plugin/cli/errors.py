"""The errors that end a command, and the mistake that commands with an output must catch."""

import argparse
from pathlib import Path

from ..data.jsonl import same_file


class CommandError(Exception):
    """Something the user can mend; printed as one line, exit code 1."""


class UsageError(CommandError):
    """A command typed wrongly, which argparse could not tell; exit code 2."""


def keep_inputs(args: argparse.Namespace, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Raise `UsageError` where an output would replace an input; both are names of options, which may be unset."""
    for output in outputs:
        for name in inputs:
            written, read = getattr(args, output), getattr(args, name)
            if written is not None and read is not None and same_file(Path(written), Path(read)):
                raise UsageError(f"--{output.replace('_', '-')} {written} is the file of --{name.replace('_', '-')}")
