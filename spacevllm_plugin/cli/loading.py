"""Arguments of the commands that load a model."""

import argparse
import sys
from typing import Any

from .errors import CommandError, UsageError
from .quiet import loading
from .sources import check_sources


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--model` and its companions, of commands that generate."""
    add_source_arguments(parser)
    add_length_argument(parser)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which model, and how it is loaded."""
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id: a SpaceVLLM export, or a base")
    parser.add_argument("--adapter", help="LoRA adapter folder, on top of --model")
    add_lf_arguments(parser)


def add_lf_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--arg`."""
    parser.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="further LLaMA-Factory argument by its YAML name, for instance video_maxlen=32 or infer_dtype=float32",
    )


def add_length_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--max-new-tokens`."""
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer (default: %(default)s)")


def parse_arguments(pairs: list[str]) -> dict[str, Any]:
    """LLaMA-Factory's arguments from `--arg`."""
    import yaml

    parts = [pair.partition("=") for pair in pairs]
    bad = [name for name, equals, _ in parts if not equals]
    if bad:
        raise UsageError(f"--arg takes NAME=VALUE, not {bad[0]!r}")

    return {name: yaml.safe_load(value) for name, _, value in parts}


def check_model(args: argparse.Namespace) -> dict[str, Any]:
    """What can be known of the model's arguments without loading it.

    Returns:
        LLaMA-Factory's arguments, from `--arg`.

    Raises:
        CommandError: There is no such model or adapter.
    """
    arguments = parse_arguments(args.arg)
    check_sources(args.model, args.adapter, arguments)
    return arguments


def load(args: argparse.Namespace) -> Any:
    """Load the engine; what is wrong with the model becomes one line."""
    from ..bootstrap import install

    arguments = check_model(args)
    if sys.stderr.isatty():
        print(f"loading {args.model} …", file=sys.stderr)

    install()
    with loading(args.verbose):
        import torch

        from ..integration.engine_loader import load_engine

        # A plain base gets fresh heads: the same in every session and every process.
        torch.manual_seed(0)
        try:
            return load_engine(args.model, args.adapter, **arguments)
        except (ValueError, OSError) as err:
            raise CommandError(str(err).strip().splitlines()[0]) from err
