"""`spacevllm-cli make-tiny`: a checkpoint to try everything with, without a download."""

import argparse
import inspect
from pathlib import Path

from ..backbones import registry
from .errors import CommandError, UsageError
from .quiet import loading


EXAMPLE = f"spacevllm-cli make-tiny {registry.names()[-1]} --out outputs/tiny"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("backbone", metavar="BACKBONE", help=", ".join(registry.names()))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the checkpoint's folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights (default: 0)")
    parser.add_argument(
        "--merge-size",
        type=int,
        choices=(1, 2),
        help="where the backbone lets you choose: patches that a visual token merges along each side (default: 2; "
        "LLaMA-Factory's own Qwen3-VL template needs 1, the frames that a token merges)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the checkpoint."""
    from ..backbones.tiny import make_tiny

    try:
        spec = registry.get(args.backbone)
    except registry.UnknownBackbone as err:
        raise UsageError(str(err)) from None

    if problem := spec.find_problem():
        raise CommandError(problem)

    if args.out.exists() and not args.out.is_dir():
        raise CommandError(f"{args.out} is a file, not a folder")

    if args.merge_size and "merge_size" not in inspect.signature(spec.build_tiny).parameters:
        raise UsageError(f"--merge-size is not for {args.backbone}")

    with loading(args.verbose):
        variant = {"merge_size": args.merge_size} if args.merge_size else {}
        make_tiny(args.backbone, args.out, seed=args.seed, **variant)

    print(f"wrote a tiny {args.backbone} to {args.out}")
