"""The error that ends a command, and the mistake that commands with an output must catch."""

import argparse
from pathlib import Path

from ..data.jsonl import same_file


class CommandError(Exception):
    """Something the user can mend; printed as one line, exit code 1."""


def keep_inputs(args: argparse.Namespace, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Raise `CommandError` where an output would replace an input; both are names of options, which may be unset."""
    for output in outputs:
        for name in inputs:
            written, read = getattr(args, output), getattr(args, name)
            if written is not None and read is not None and same_file(Path(written), Path(read)):
                raise CommandError(f"--{output.replace('_', '-')} {written} is the file of --{name.replace('_', '-')}")
