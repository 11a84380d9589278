"""`spacevllm-cli predict`: ground every row of a file."""

import argparse

from .errors import UsageError
from .loading import add_model_arguments, load
from .locations import beside, local_output, local_rows, location
from .outputs import check_outputs


EXAMPLE = "spacevllm-cli predict --model out/merged --data test.jsonl --media-dir videos --out predictions.jsonl"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_model_arguments(parser)
    parser.add_argument("--data", type=location, required=True, help="annotation rows (JSONL); a path, or s3://…")
    parser.add_argument("--media-dir", type=location, help="where relative media paths start (default: beside --data)")
    parser.add_argument("--out", type=location, required=True, help="prediction rows (JSONL); run again to go on")
    parser.add_argument("--batch-size", type=int, default=8, help="rows at once (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Predict."""
    from ..data.schema import read_rows

    if args.batch_size < 1:
        raise UsageError("--batch-size must be at least 1")

    with local_rows(args.data) as data, local_output(args.out) as out:
        check_outputs({"--data": data}, files={"--out": out})  # not a stream: it is read to go on
        rows = list(read_rows(data))  # a bad row is better known before the model is loaded
        engine = load(args)
        # Not before: it imports torch, and what is wrong with `--model` is to be said at once.
        from ..inference.predictor import predict_rows, sort_predictions

        media_dir = args.media_dir or beside(args.data)
        counts = predict_rows(engine, rows, media_dir, out, args.batch_size, args.max_new_tokens)
        sort_predictions(out, (row.id for row in rows))

    print(", ".join(f"{count} {name}" for name, count in counts.items()) + f": {args.out}")
