"""`spacevllm-cli render`: ground truth and predictions of annotation rows as pictures and videos."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ..data.output import OutputError
from ..data.schema import AnnotationRow, PredictionRow, read_rows
from ..data.shortened import shortened
from ..data.storage import StorageError, join
from ..data.video import MediaError
from ..inference.draw_row import draw_row, file_name
from ..inference.render import tube_from_prediction, tube_from_target
from .errors import CommandError, UsageError
from .locations import beside, local_rows, location
from .outputs import check_outputs


EXAMPLE = "spacevllm-cli render --data val.jsonl --media-dir data --pred predictions.jsonl --limit 5 --out pictures"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--data", required=True, type=location, metavar="G.jsonl", help="annotation rows; or s3://…")
    parser.add_argument(
        "--media-dir", type=location, metavar="DIR", help="where relative media paths start (default: beside --data)"
    )
    parser.add_argument(
        "--pred", type=location, metavar="P.jsonl", help="prediction rows to draw beside the ground truth"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--video", action="store_true", help="also write an mp4 of each row's clip")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--id", help="draw only this row")
    which.add_argument("--limit", type=int, metavar="N", help="draw only the first N rows that have a target")


def run(args: argparse.Namespace) -> None:
    """Draw the rows; one that cannot be drawn is named on stderr and does not stop the others."""
    check_outputs(folders={"--out": args.out})
    rows = _choose(args)
    media_dir = args.media_dir or beside(args.data)
    media = {os.path.realpath(join(str(media_dir), path)) for row in rows for path in _media(row)}
    preds = _predictions(args, {row.id for row in rows})
    failed = 0
    names: set[str] = set()
    for row in rows:
        name = file_name(row.id)
        # Different ids may fold into one name; the second must not overwrite the first.
        name = name if name not in names else f"{name}-{len(names)}"
        names.add(name)
        for picture in (args.out / f"{name}{suffix}" for suffix in (".png", ".mp4")):
            if os.path.realpath(picture) in media:
                raise UsageError(f"--out {args.out}: {picture} is a medium of the rows")

        tubes = [tube_from_target(row)] + ([tube_from_prediction(preds[row.id])] if row.id in preds else [])
        try:
            for picture in draw_row(row, tubes, media_dir, args.out / name, args.video):
                print(picture)
        except (OutputError, StorageError):
            raise  # a full disk is full for the other rows, too, and a storage is away for them
        except (MediaError, OSError) as err:
            print(f"row {shortened(row.id)}: {err}", file=sys.stderr)
            failed += 1

    if failed:
        raise CommandError(f"{failed} of {len(rows)} rows could not be drawn")


def _predictions(args: argparse.Namespace, wanted: set[str]) -> dict[str, PredictionRow]:
    if args.pred is None:
        return {}

    with local_rows(args.pred) as file:
        return {pred.id: pred for pred in read_rows(file, PredictionRow) if pred.id in wanted}


def _media(row: AnnotationRow) -> Iterator[str]:
    for medium in (*(row.images or ()), *(row.videos or ())):
        yield from [medium] if isinstance(medium, str) else medium


def _choose(args: argparse.Namespace) -> list[AnnotationRow]:
    """The rows asked for; a qa row has nothing to draw."""
    with local_rows(args.data) as file:
        rows = list(read_rows(file))

    if args.id is not None:
        rows = [row for row in rows if row.id == args.id]
        if not rows:
            raise CommandError(f"no row with id {args.id!r} in {args.data}")

    rows = [row for row in rows if row.target][: args.limit]
    if not rows:
        raise CommandError(f"nothing to draw: no row{' asked for' if args.id else ''} in {args.data} has a target")

    return rows
