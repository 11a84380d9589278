"""`spacevllm-cli check`: every row and every media file, before a training run finds out."""

import argparse
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..check import CheckOptions, Report, check_file
from ..check.media import Reading
from ..data.media_index import MediaIndex
from ..data.output import Outputs
from ..data.storage import is_remote
from .errors import CommandError
from .locations import beside, file_name, local_rows, location
from .outputs import apart_from, check_outputs
from .sharing import add_ray_arguments, retries_of, sharing, tell


EXAMPLE = "spacevllm-cli check train.jsonl --media-dir videos --fix train.good.jsonl --json report.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", type=location, metavar="FILE.jsonl", help="annotation rows; a path, or s3://…")
    parser.add_argument(
        "--media-dir", type=location, metavar="D", help="where media paths start (default: beside FILE)"
    )
    parser.add_argument("--fix", type=location, metavar="OUT.jsonl", help="write the good and the repaired rows")
    parser.add_argument("--json", type=location, metavar="R.json", help="write the report as JSON")
    parser.add_argument(
        "--memory",
        type=Path,
        metavar="M",
        help="what is known of media files, so that a killed run goes on (default: FILE.jsonl.media; of s3://… here)",
    )
    parser.add_argument(
        "--media-index",
        type=Path,
        metavar="I",
        help="media index: what it knows of videos is not looked up again, what is found out is added, for `media_index: "
        "I` in recipes",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that examine media (default: one for each core, here %(default)s)",
    )
    parser.add_argument("--decode", action="store_true", help="also decode the frames that training would read")
    defaults = Reading()
    parser.add_argument("--video-maxlen", type=int, default=defaults.maxlen, help="with --decode: as in the recipe")
    parser.add_argument("--video-fps", type=float, default=defaults.fps, help="with --decode: as in the recipe")
    parser.add_argument(
        "--frame-sampling",
        choices=("uniform", "fps"),
        default=defaults.sampling,
        help="with --decode: as in the recipe",
    )
    add_ray_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Check, print, write; fails when there are problems that `--fix` has not taken care of."""
    with local_rows(args.file) as file:
        _run(args, file)


def _run(args: argparse.Namespace, file: Path) -> None:
    media_dir = args.media_dir or beside(args.file)
    memory = args.memory or Path(file_name(args.file) + ".media" if is_remote(args.file) else f"{file}.media")
    files = {"--memory": memory, "--media-index": args.media_index}
    _check_paths(args.file, media_dir, {"--fix": args.fix, "--json": args.json}, files)
    if args.workers < 1:
        raise CommandError("--workers must be at least 1")

    if args.video_maxlen < 1 or not args.video_fps > 0:
        raise CommandError("--video-maxlen and --video-fps must be above 0")

    reading = Reading(args.video_maxlen, args.video_fps, args.frame_sampling) if args.decode else None
    folders = [str(media_dir), str(beside(args.file))]
    media_index = MediaIndex.at(args.media_index) if args.media_index else None
    options = CheckOptions(folders, memory, args.workers, reading, media_index=media_index)
    retries = retries_of(args)
    with apart_from(args.fix, args.json):
        try:
            with sharing(args) as cluster, Outputs() as outputs:
                if cluster is not None:
                    from ..distributed.media import examine_shared

                    options = replace(options, share=partial(examine_shared, cluster.crew, retries, tell))

                fixed, table = (path and outputs.open(path) for path in (args.fix, args.json))
                report = check_file(file, options, fixed)
                if table:
                    table.write(json.dumps(report.as_json(), indent=2, ensure_ascii=False).encode() + b"\n")
        except PermissionError as err:
            raise CommandError(f"{err.filename}: {err.strerror}") from None

        _print(report, args.fix)

    bad = report.repaired + report.dropped
    if not report.rows:
        raise CommandError(f"{args.file} holds no rows")

    if args.fix and bad == report.dropped == report.rows:
        raise CommandError(f"no row of {args.file} can be used")

    if bad and not args.fix:
        raise CommandError(f"{bad} of {report.rows} rows have problems")


def _check_paths(file: Path | str, media_dir: Path | str, outputs: dict, files: dict[str, Path | None]) -> None:
    if isinstance(file, Path) and not file.is_file():
        raise CommandError(f"{file}: no such file")

    if isinstance(media_dir, Path) and not media_dir.is_dir():
        raise CommandError(f"{media_dir}: no such folder")

    for option, path in {**outputs, **files}.items():
        if isinstance(path, Path) and not path.parent.is_dir():
            raise CommandError(f"{option} {path}: no such folder {path.parent}")

    check_outputs({"FILE.jsonl": file}, outputs, files)


def _print(report: Report, fixed: Path | str | None) -> None:
    if table := report.table():
        print(table + "\n")

    print("media: " + ", ".join(f"{count} {name}" for name, count in report.media.items()))
    repaired, dropped = ("repaired", "dropped") if fixed else ("can be repaired", "cannot be used")
    print(f"rows: {report.rows}, {report.good} good, {report.repaired} {repaired}, {report.dropped} {dropped}")
    if fixed:
        print(f"written: {report.good + report.repaired} rows to {fixed}")
