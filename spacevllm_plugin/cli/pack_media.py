"""`spacevllm-cli pack-media`: rows and their media in a few large files, for file systems that hate a million small ones."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..data.storage import inside, suffix
from .errors import CommandError, UsageError
from .locations import beside, file_name, local_rows, location
from .outputs import check_outputs


EXAMPLE = "spacevllm-cli pack-media train.jsonl --media-dir videos --out packed"
PARQUET = ".parquet"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "files",
        type=location,
        nargs="+",
        metavar="FILE",
        help="annotation rows (JSONL), or Parquet files of rows with their media in them (several, if there are); or s3://…",
    )
    parser.add_argument(
        "--media-dir", type=location, metavar="D", help="where media paths start (default: beside FILE)"
    )
    parser.add_argument(
        "--out",
        type=location,
        required=True,
        metavar="DIR",
        help="folder, or s3://…, for FILE-000000.tar, … (WebDataset: each medium, and the rows about it) and FILE.jsonl, the "
        "rows, which refer to the media in these",
    )
    parser.add_argument(
        "--shard-mb", type=float, default=1000.0, metavar="MB", help="size of a tar file (default: %(default)g)"
    )


def run(args: argparse.Namespace) -> None:
    """Pack and say what to write into dataset_info.json."""
    from ..data.pack import pack

    first = args.files[0]
    media_dir = args.media_dir or beside(first)
    if not args.shard_mb > 0:
        raise UsageError("--shard-mb must be above 0")

    if len(args.files) > 1 and not all(map(_is_parquet, args.files)):
        raise UsageError("several FILEs must be Parquet; put JSONL files one behind the other first")

    for file in args.files:
        if isinstance(file, Path) and not file.is_file():
            raise CommandError(f"{file}: no such file")

    if isinstance(media_dir, Path) and not media_dir.is_dir():
        raise CommandError(f"{media_dir}: no such folder")

    rows = inside(args.out, f"{_name(first)}.jsonl")
    check_outputs({"FILE": args.files}, outputs={"--out": rows}, folders={"--out": args.out})
    with _jsonl(args.files) as file:
        # Beside the rows lies what was unpacked, if anything.
        folders = [str(folder) for folder in (media_dir, beside(first), file.parent)]
        packed = pack(file, folders, args.out, round(args.shard_mb * 1e6))

    print(f"{packed.rows} rows about {packed.media} media in {len(packed.shards)} shards: {rows}")
    named = rows if isinstance(rows, str) else rows.name
    print(f'dataset_info.json: "{_name(first)}": {{"file_name": "{named}", "formatting": "spacevllm"}}')


def _is_parquet(place: Path | str) -> bool:
    return suffix(str(place)) == PARQUET


def _name(place: Path | str) -> str:
    """What shards are called: a file's name without its suffix, and of Parquet without its number among several."""
    stem = Path(file_name(place)).stem
    return re.sub(r"-\d+-of-\d+$", "", stem) if _is_parquet(place) else stem


@contextmanager
def _jsonl(files: list[Path | str]) -> Iterator[Path]:
    """The rows as a file of JSONL on this machine's disk, while this lasts."""
    if not _is_parquet(files[0]):
        with local_rows(files[0]) as file:
            yield file

        return

    from ..data.parquet import unpacked

    with TemporaryDirectory() as folder:
        yield unpacked(list(map(str, files)), Path(folder), _name(files[0]))
