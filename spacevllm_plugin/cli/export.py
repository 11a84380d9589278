"""`spacevllm-cli export --for-engine`: a checkpoint that inference engines load, and what stands beside it when served."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import CommandError, UsageError
from .loading import add_source_arguments, load
from .outputs import check_outputs
from .quiet import loading


EXAMPLE = "spacevllm-cli export --model base --adapter saves/lora --out out/engine --for-engine"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_source_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the export's folder, new or empty")
    parser.add_argument(
        "--for-engine",
        action="store_true",
        help="queries become tokens of the vocabulary, which the backbone's stock class in vLLM and SGLang reads; for "
        "`spacevllm-cli serve`. A merged SpaceVLLM checkpoint is what `llamafactory-cli export` writes",
    )


def run(args: argparse.Namespace) -> None:
    """Load, merge, write."""
    if not args.for_engine:
        raise UsageError("say --for-engine; a merged SpaceVLLM checkpoint is what `llamafactory-cli export` writes")

    check_outputs(folders={"--out": args.out})
    if args.out.is_dir() and any(args.out.iterdir()):
        raise UsageError(f"--out {args.out}: the folder is not empty")

    engine = load(args)
    from ..serving.export import ExportError, write_export

    args.out.mkdir(parents=True, exist_ok=True)
    # A checkpoint is many files: they are moved into place when all of them are whole.
    with loading(args.verbose), TemporaryDirectory(dir=args.out, prefix=".") as folder:
        try:
            export = write_export(engine, Path(folder))
        except ExportError as err:
            raise CommandError(str(err)) from None

        for file in Path(folder).iterdir():
            file.replace(args.out / file.name)

    limit = f"videos of up to {len(export.queries.frames)} queries"
    if export.queries.crowded:
        limit += f", or of {len(export.queries.crowded)}"

    print(f"wrote {args.out} for engines: {export.backbone}, {limit}")
