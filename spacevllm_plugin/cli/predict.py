"""`spacevllm-cli predict`: ground every row of a file."""

import argparse
from functools import partial

from .errors import UsageError
from .loading import add_model_arguments, check_model, load
from .locations import beside, local_output, local_rows, location
from .outputs import check_outputs
from .sharing import add_ray_arguments, retries_of, sharing, tell


EXAMPLE = "spacevllm-cli predict --model out/merged --data test.jsonl --media-dir videos --out predictions.jsonl"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_model_arguments(parser)
    parser.add_argument("--data", type=location, required=True, help="annotation rows (JSONL); a path, or s3://…")
    parser.add_argument("--media-dir", type=location, help="where relative media paths start (default: beside --data)")
    parser.add_argument("--out", type=location, required=True, help="prediction rows (JSONL); run again to go on")
    parser.add_argument("--batch-size", type=int, default=8, help="rows at once (default: %(default)s)")
    add_ray_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Predict."""
    from ..data.schema import read_rows

    if args.batch_size < 1:
        raise UsageError("--batch-size must be at least 1")

    check_outputs({"--data": args.data}, files={"--out": args.out})  # not a stream: it is read to go on
    retries = retries_of(args)
    with local_rows(args.data) as data, local_output(args.out) as out:
        rows = list(read_rows(data))  # a bad row is better known before the model is loaded
        where = args.media_dir or beside(args.data), out, args.batch_size, args.max_new_tokens
        with sharing(args) as cluster:
            if cluster is None:
                engine = load(args)
                # Not before: it imports torch, and what is wrong with `--model` is to be said at once.
                from ..inference.predictor import predict_rows, sort_predictions

                counts = predict_rows(engine, rows, *where)
                sort_predictions(out, (row.id for row in rows))
            else:
                check_model(args)
                from ..distributed.ground import predict_shared

                hire = partial(cluster.crew, use_gpus=True)
                counts = predict_shared(hire, partial(load, args), rows, *where, retries, tell)

    print(", ".join(f"{count} {name}" for name, count in counts.items()) + f": {args.out}")
