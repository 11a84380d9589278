"""Every command explains itself."""

import argparse

import pytest

from spacevllm_plugin.cli.main import COMMANDS, build_parser


def parsers(parser):
    """A parser and all its subparsers."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from parsers(sub)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_can_be_printed_and_holds_an_example(command):
    for parser in parsers(build_parser(command)):
        page = parser.format_help()
        assert "example:" in page and f"spacevllm-cli {command}" in page.partition("example:")[2], parser.prog
