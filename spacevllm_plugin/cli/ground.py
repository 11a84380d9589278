"""`spacevllm-cli ground`: one sentence in one video or image."""

import argparse
import sys
from pathlib import Path
from typing import BinaryIO

from ..data.output import Outputs
from .errors import UsageError
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
    parser.add_argument("--query", required=True, help="the sentence")
    parser.add_argument(
        "--render", type=Path, action="append", default=[], help=".mp4 or .png to draw; may be repeated"
    )
    parser.add_argument("--out", type=Path, help="write the prediction row (JSON) here as well")
    parser.add_argument("--json", action="store_true", help="print the prediction row instead of the table")


def run(args: argparse.Namespace) -> None:
    """Ground and print."""
    if not args.query.strip():
        raise UsageError("--query is empty: it takes the sentence to look for")

    suffixes = (".png",) if args.image else (".png", ".mp4")
    for out in args.render:
        if out.suffix not in suffixes:
            raise UsageError(f"--render {out}: the name must end in {' or '.join(suffixes)}")

    check_outputs(
        {"--video": args.video, "--image": args.image},
        {"--out": args.out},
        files={"--render": args.render},  # an mp4 is not written from beginning to end
    )
    with apart_from(args.out), Outputs() as outputs:
        # Opened before the model is loaded: what cannot be written is better known then.
        row, *pictures = (path and outputs.open(path) for path in (args.out, *args.render))
        _ground(args, row, pictures)

    for out in args.render:
        # With `--json`, stdout is for one row.
        print(f"drawn: {out}", file=sys.stderr if args.json else sys.stdout)


def _ground(args: argparse.Namespace, row: BinaryIO | None, pictures: list[BinaryIO]) -> None:
    from ..data.prompt_rules import check_messages
    from ..data.prompts import instruction
    from ..data.schema import dump_row

    task, tag = ("stvg", "<video>") if args.video else ("rec", "<image>")
    messages = [{"role": "user", "content": tag + instruction(task, args.query)}]
    images, videos = ([], [args.video]) if args.video else ([args.image], [])
    check_messages(messages, len(images), len(videos))  # better known before the model is loaded
    engine = load(args)
    # Not before: these import torch, and what is wrong with `--model` is to be said at once.
    from ..data.video import read_image
    from ..inference.grounding import ground_batch
    from ..inference.render import render, render_image, tube_from_prediction

    item = engine.item(args.query, task, messages, images, videos)
    (prediction,) = ground_batch(engine.model, engine.prompter, [item], args.max_new_tokens)
    plan = item.videos[0] if args.video else None
    print(dump_row(prediction) if args.json else describe(prediction, args.video or args.image, args.query, plan))
    if row:
        row.write(dump_row(prediction).encode() + b"\n")

    for out in pictures:
        tube = tube_from_prediction(prediction)
        if args.image:
            render_image(read_image(args.image), [tube], out, args.query)
        else:
            render(plan.ref, tube, out, args.query)
