"""`spacevllm-cli pack-media`: rows and their media in a few large files, for file systems that hate a million small ones."""

import argparse
from pathlib import Path

from .errors import CommandError, UsageError
from .outputs import check_outputs


EXAMPLE = "spacevllm-cli pack-media train.jsonl --media-dir videos --out packed"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="annotation rows")
    parser.add_argument("--media-dir", type=Path, metavar="D", help="where media paths start (default: beside FILE)")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for FILE-000000.tar, … (WebDataset: each medium, and the rows about it) and FILE.jsonl, the rows, "
        "which refer to the media in these",
    )
    parser.add_argument(
        "--shard-mb", type=float, default=1000.0, metavar="MB", help="size of a tar file (default: %(default)g)"
    )


def run(args: argparse.Namespace) -> None:
    """Pack and say what to write into dataset_info.json."""
    from ..data.pack import pack

    media_dir = args.media_dir or args.file.parent
    if not args.shard_mb > 0:
        raise UsageError("--shard-mb must be above 0")

    if not args.file.is_file():
        raise CommandError(f"{args.file}: no such file")

    if not media_dir.is_dir():
        raise CommandError(f"{media_dir}: no such folder")

    rows = args.out / f"{args.file.stem}.jsonl"
    check_outputs({"FILE.jsonl": args.file}, files={"--out": rows}, folders={"--out": args.out})
    packed = pack(args.file, [str(media_dir), str(args.file.parent)], args.out, round(args.shard_mb * 1e6))
    print(f"{packed.rows} rows about {packed.media} media in {len(packed.shards)} shards: {rows}")
    print(f'dataset_info.json: "{rows.stem}": {{"file_name": "{rows.name}", "formatting": "spacevllm"}}')
