"""`spacevllm-cli export-tubes`: predicted tubes in the formats of other tools."""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from ..data.schema import AnnotationRow, PredictionRow, read_rows
from ..data.shortened import shortened
from ..data.storage import inside
from ..data.video import MediaError
from ..exporters import EXPORTERS, Exporter, ExportError, TubeRecord
from ..exporters.records import BOX_TASKS, make_record
from ..inference.draw_row import file_name
from .errors import CommandError, UsageError
from .locations import beside, local_rows, location
from .outputs import apart_from, check_outputs


EXAMPLE = "spacevllm-cli export-tubes --data test.jsonl --pred predictions.jsonl --format coco --out tubes.json"
# A file for each video, for formats whose files hold no more.
FOLDER_FORMATS = tuple(name for name, exporter in EXPORTERS.items() if exporter.holds == "medium")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--data", required=True, type=location, metavar="ROWS.jsonl", help="annotation rows; or s3://…"
    )
    parser.add_argument("--pred", required=True, type=location, metavar="P.jsonl", help="their prediction rows")
    parser.add_argument("--format", required=True, choices=EXPORTERS, help="what to write")
    parser.add_argument(
        "--out",
        required=True,
        type=location,
        help=f"the file; for {', '.join(FOLDER_FORMATS)} a folder, which gets one for each video",
    )
    parser.add_argument(
        "--media-dir", type=location, metavar="D", help="where media paths start (default: beside --data)"
    )
    parser.add_argument(
        "--media-prefix", default="", metavar="URL", help="put before each medium's path in the files written"
    )


def run(args: argparse.Namespace) -> None:
    """Write; what cannot be written is named on stderr, what has no tube is counted."""
    exporter = EXPORTERS[args.format]
    inputs = {"--data": args.data, "--pred": args.pred}
    folder = exporter.holds == "medium"
    check_outputs(inputs, outputs={} if folder else {"--out": args.out}, folders={"--out": args.out} if folder else {})
    counts: Counter[str] = Counter()
    tubes = _read(args, exporter, counts)
    found = [tube for tube in tubes if len(tube.tube.frames)]
    counts["without a tube"] += sum(tube.answer.outcome == "scored" for tube in tubes) - len(found)
    counts.update(tube.answer.outcome for tube in tubes if tube.answer.outcome != "scored")
    broken = 0
    if folder:
        broken = _write_each(args, exporter, tubes)
    else:
        exporter.write(args.out, tubes)

    rest = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    with apart_from(args.out):
        print(f"{len(found)} tubes{f' ({rest})' if rest else ''}: {args.out}")

    if broken:
        raise CommandError(f"{broken} of {len(exporter.groups(tubes))} files could not be written")


def _read(args: argparse.Namespace, exporter: Exporter, counts: Counter[str]) -> list[TubeRecord]:
    media_dir, tubes = args.media_dir or beside(args.data), []
    with local_rows(args.pred) as predicted:
        predictions = {prediction.id: prediction for prediction in read_rows(predicted, PredictionRow)}

    with local_rows(args.data) as data:
        for row in read_rows(data):
            prediction = predictions.get(row.id)
            if row.task not in BOX_TASKS:
                counts["of tasks without boxes"] += 1
            elif prediction is None:
                counts["without a prediction"] += 1
            elif row.task == "rec" and not exporter.images:
                counts["on images"] += 1
            else:
                tubes.append(_record(row, prediction, media_dir, args.media_prefix))

    if not tubes:
        reasons = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise CommandError(f"nothing to write: {reasons or f'{args.data} holds no rows'}")

    return tubes


def _record(row: AnnotationRow, prediction: PredictionRow, media_dir: Path | str, prefix: str) -> TubeRecord:
    try:
        return make_record(row, prediction, media_dir, prefix)
    except MediaError as err:
        raise CommandError(f"row {shortened(row.id)}: {err}") from None


def _write_each(args: argparse.Namespace, exporter: Exporter, tubes: list[TubeRecord]) -> int:
    """Write a file for each medium into the folder; returns how many could not be."""
    media = {os.path.realpath(tube.source.path) for tube in tubes if tube.source is not None and tube.source.path}
    names: set[str] = set()
    broken = 0
    for group in exporter.groups(tubes):
        name = "images" if group[0].is_image else file_name(os.path.splitext(group[0].name)[0])
        # Different media may fold into one name.
        name = name if name not in names else f"{name}-{len(names)}"
        names.add(name)
        out = inside(args.out, f"{name}{exporter.suffix}")
        if os.path.realpath(out) in media:
            raise UsageError(f"--out {args.out}: {out} is a medium of the rows")

        try:
            exporter.write(out, group)
        except (MediaError, ExportError) as err:
            print(f"{out}: {err}", file=sys.stderr)
            broken += 1

    return broken
