"""`spacevllm-cli ground`: sentences in one video or image."""

import argparse
import sys
from pathlib import Path
from typing import BinaryIO

from ..data.output import Outputs
from .errors import CommandError, UsageError
from .ground_table import describe
from .loading import add_model_arguments, load
from .outputs import apart_from, check_outputs


EXAMPLE = 'spacevllm-cli ground --model out/merged --video v.mp4 --query "the man in red who opens the door" --render out.mp4'


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_model_arguments(parser)
    media = parser.add_mutually_exclusive_group(required=True)
    media.add_argument("--video", help="video file, or folder of frames")
    media.add_argument("--image", help="image file")
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        help="the sentence; may be repeated: all are answered from one reading of the video",
    )
    parser.add_argument("--queries", type=Path, metavar="FILE", help="a file of sentences, one a line")
    parser.add_argument(
        "--render",
        type=Path,
        action="append",
        default=[],
        help=".mp4 or .png to draw the tube of one sentence; may be repeated",
    )
    parser.add_argument("--out", type=Path, help="write the prediction rows (JSON, one a line) here as well")
    parser.add_argument("--json", action="store_true", help="print the prediction rows instead of the table")


def run(args: argparse.Namespace) -> None:
    """Ground and print."""
    suffixes = (".png",) if args.image else (".png", ".mp4")
    for out in args.render:
        if out.suffix not in suffixes:
            raise UsageError(f"--render {out}: the name must end in {' or '.join(suffixes)}")

    check_outputs(
        {"--video": args.video, "--image": args.image, "--queries": args.queries},
        {"--out": args.out},
        files={"--render": args.render},  # an mp4 is not written from beginning to end
    )
    queries = _queries(args)
    if args.render and len(queries) > 1:
        raise UsageError(f"--render draws the tube of one sentence, not of {len(queries)}")

    with apart_from(args.out), Outputs() as outputs:
        # Opened before the model is loaded: what cannot be written is better known then.
        rows, *pictures = (path and outputs.open(path) for path in (args.out, *args.render))
        _ground(args, queries, rows, pictures)

    for out in args.render:
        # With `--json`, stdout is for rows.
        print(f"drawn: {out}", file=sys.stderr if args.json else sys.stdout)


def _queries(args: argparse.Namespace) -> list[str]:
    """The sentences to look for."""
    queries = args.query
    if not all(query.strip() for query in queries):
        raise UsageError("--query is empty: it takes the sentence to look for")

    if args.queries is not None:
        try:
            lines = args.queries.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as err:
            raise CommandError(f"--queries {args.queries}: not UTF-8 ({err.reason} at byte {err.start})") from None

        queries = [*queries, *filter(None, map(str.strip, lines))]

    if not queries:
        raise UsageError("there is no sentence to look for: give --query, or --queries with a line in its file")

    return queries


def _ground(args: argparse.Namespace, queries: list[str], rows: BinaryIO | None, pictures: list[BinaryIO]) -> None:
    from ..data.prompt_rules import check_messages
    from ..data.prompts import instruction
    from ..data.schema import dump_row

    task, tag = ("stvg", "<video>") if args.video else ("rec", "<image>")
    prompts = [[{"role": "user", "content": tag + instruction(task, query)}] for query in queries]
    images, videos = ([], [args.video]) if args.video else ([args.image], [])
    for messages in prompts:
        check_messages(messages, len(images), len(videos))  # better known before the model is loaded

    engine = load(args)
    # Not before: these import torch, and what is wrong with `--model` is to be said at once.
    from ..data.video import read_image
    from ..inference.batches import MOST_TOGETHER
    from ..inference.grounding import ground_batch
    from ..inference.render import render, render_image, tube_from_prediction

    items = [engine.item(query, task, messages, images, videos) for query, messages in zip(queries, prompts)]
    # So many that an engine which shares nothing can take as well.
    at_once = MOST_TOGETHER if engine.model.shares_prefixes else 1
    predictions = ground_batch(engine.model, engine.prompter, items, args.max_new_tokens, at_once)
    plan = items[0].videos[0] if args.video else None
    for number, (query, prediction) in enumerate(zip(queries, predictions)):
        if args.json:
            print(dump_row(prediction))
        else:
            print("\n" * (number > 0) + describe(prediction, args.video or args.image, query, plan))

        if rows:
            rows.write(dump_row(prediction).encode() + b"\n")

    for out in pictures:
        tube = tube_from_prediction(predictions[0])
        if args.image:
            render_image(read_image(args.image), [tube], out, queries[0])
        else:
            render(plan.ref, tube, out, queries[0])
