"""The errors that end a command."""


class CommandError(Exception):
    """Something the user can mend; printed as one line, exit code 1."""


class UsageError(CommandError):
    """A command typed wrongly, which argparse could not tell; exit code 2."""
