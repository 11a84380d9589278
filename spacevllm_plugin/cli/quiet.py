"""What our commands let through by default: results, a progress bar, warnings and errors; `-v` shows all logs."""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Add `-v`."""
    # Without a default: that of a subcommand's parser would undo a `-v` before the subcommand.
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the logs of LLaMA-Factory and the other libraries as well",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No logs below warnings, and none of Python's warnings that only the libraries' developers can do something about."""
    disabled = logging.root.manager.disable
    # Not the loggers' levels: the libraries set these whenever they are imported or read their arguments.
    logging.disable(max(disabled, logging.INFO))
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", category)

            yield
    finally:
        logging.disable(disabled)


@contextmanager
def loading(verbose: bool) -> Iterator[None]:
    """While transformers loads or saves a model: stdout stays clean, and stderr too unless `verbose`."""
    from transformers.utils import logging as transformers_logging

    with ExitStack() as stack:
        # LLaMA-Factory logs to stdout, which is for results.
        stack.enter_context(redirect_stdout(sys.stderr))
        if not verbose:
            for handler in logging.getLogger("transformers").handlers:
                handler.addFilter(_is_for_users)
                stack.callback(handler.removeFilter, _is_for_users)

            # In a file, or a program's pipe, every step of a bar would stay.
            if not sys.stderr.isatty() and transformers_logging.is_progress_bar_enabled():
                transformers_logging.disable_progress_bar()
                stack.callback(transformers_logging.enable_progress_bar)

        yield


def _is_for_users(record: logging.LogRecord) -> bool:
    """Whether a warning of transformers is about the user's files or arguments."""
    text = record.getMessage()
    return not ("deprecated" in text or "LOAD REPORT" in text and _lacks_only_heads(text))


def _lacks_only_heads(report: str) -> bool:
    """Whether a table of what a checkpoint lacks names nothing but our modules: a plain base, which our own log says."""
    from ..modeling.grounding_model import is_head

    rows = [line for line in report.splitlines() if line.count("|") >= 2][1:]
    return all(is_head(row) and "MISSING" in row for row in rows)
