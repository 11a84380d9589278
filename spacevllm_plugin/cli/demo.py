"""`spacevllm-cli demo`: a page in the browser to try a model on."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from ..demo.limits import Limits
from .errors import UsageError
from .loading import add_model_arguments, load
from .outputs import check_outputs


EXAMPLE = "spacevllm-cli demo --model out/merged --port 7860 --corrections corrections/rows.jsonl"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_model_arguments(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine)"
    )
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    parser.add_argument(
        "--corrections",
        type=Path,
        metavar="FILE.jsonl",
        help="let visitors save what they put right: annotation rows are appended here, media copied beside it",
    )
    limits = parser.add_argument_group("what a visitor may upload")
    for option, name, unit, kind in (
        ("--max-mb", "megabytes", "megabytes of a file", float),
        ("--max-seconds", "seconds", "seconds of a video", float),
        ("--max-frames", "frames", "frames of a video", int),
        ("--max-megapixels", "megapixels", "million pixels of a frame or an image", float),
        ("--max-gigapixels", "gigapixels", "thousand million pixels of all frames together", float),
    ):
        default = getattr(Limits, name)
        limits.add_argument(option, dest=name, type=kind, default=default, help=f"{unit} (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Serve until interrupted."""
    names = ("megabytes", "seconds", "frames", "megapixels", "gigapixels")
    limits = Limits(**{name: getattr(args, name) for name in names})
    # Written so that NaN fails it, too.
    if not all(getattr(limits, name) > 0 for name in names):
        raise UsageError("the limits of uploads must be above 0")

    check_outputs(files={"--corrections": args.corrections})
    # A killed server removes its temporary files, like one that is interrupted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    engine = load(args)
    from ..demo.server import serve

    name = Path(args.adapter or args.model).name  # where it lies is nothing to visitors
    with serve(engine, name, args.host, args.port, limits, args.max_new_tokens, args.corrections) as url:
        print(f"the page is at {url} (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("bye", file=sys.stderr)
