"""The error that ends a command."""


class CommandError(Exception):
    """Something the user can mend; printed as one line, exit code 1."""
