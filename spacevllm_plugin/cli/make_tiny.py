"""`spacevllm-cli make-tiny`: a checkpoint to try everything with, without a download."""

import argparse
import inspect
from pathlib import Path
from tempfile import TemporaryDirectory

from ..backbones import registry
from .errors import CommandError, UsageError
from .outputs import check_outputs
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
    from safetensors import SafetensorError

    from ..backbones.tiny import make_tiny

    try:
        spec = registry.get(args.backbone)
    except registry.UnknownBackbone as err:
        raise UsageError(str(err)) from None

    if problem := spec.find_problem():
        raise CommandError(problem)

    check_outputs(folders={"--out": args.out})
    if args.merge_size and "merge_size" not in inspect.signature(spec.build_tiny).parameters:
        raise UsageError(f"--merge-size is not for {args.backbone}")

    variant = {"merge_size": args.merge_size} if args.merge_size else {}
    args.out.mkdir(parents=True, exist_ok=True)
    # A checkpoint is many files: they are moved into place when all of them are whole.
    with loading(args.verbose), TemporaryDirectory(dir=args.out, prefix=".") as folder:
        try:
            make_tiny(args.backbone, Path(folder), seed=args.seed, **variant)
        except SafetensorError as err:
            raise CommandError(f"--out: {args.out} cannot be written: {err}") from None

        for file in Path(folder).iterdir():
            file.replace(args.out / file.name)

    print(f"wrote a tiny {args.backbone} to {args.out}")
