"""`spacevllm-cli unistg`: the stages of the Uni-STG builder, and the training mixture."""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .errors import CommandError
from .locations import location
from .outputs import check_outputs
from .quiet import add_verbose, loading
from .sharing import add_ray_arguments, retries_of, sharing, tell


EXAMPLE = """spacevllm-cli unistg analyze --data charades_sta/train.jsonl --out u/1.jsonl \\
      --base-url http://localhost:8000/v1 --model Qwen2.5-72B-Instruct
  spacevllm-cli unistg annotate --data u/1.jsonl --media-dir media --out u/2.jsonl
  spacevllm-cli unistg refine --data u/2.jsonl --out u/3.jsonl
  spacevllm-cli unistg filter --data u/3.jsonl --out data_info/unistg/charades_sta.jsonl
  spacevllm-cli unistg mix --config examples/unistg/mix.yaml --data-dir data_info --out data_info/unistg/mix.jsonl

Each stage can be killed and started again with the same command; see spacevllm-cli unistg STAGE --help."""

STAGE_FILES = (
    "Beside OUT: OUT.rejects.jsonl (every other row, with its reason), OUT.counts.json (how many went where), and "
    "while it runs OUT.partial, from which the same command goes on after an interruption."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their arguments."""
    subcommands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")

    def add(name: str, run: Any, help_line: str, example: str) -> argparse.ArgumentParser:
        sub = subcommands.add_parser(
            name,
            help=help_line,
            description=help_line[0].upper() + help_line[1:] + ".",
            epilog=f"example:\n  spacevllm-cli unistg {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_verbose(sub)
        sub.set_defaults(run_stage=run)
        return sub

    _configure_analyze(
        add(
            "analyze",
            _analyze,
            "a language model names each caption's objects, the main subject first",
            "--data train.jsonl --out 1.jsonl --base-url http://localhost:8000/v1 --model Qwen2.5-72B-Instruct",
        )
    )
    _configure_annotate(
        add(
            "annotate",
            _annotate,
            "Grounding-DINO boxes the objects on the frames of the coarse span",
            "--data 1.jsonl --media-dir media --out 2.jsonl",
        )
    )
    _configure_refine(
        add(
            "refine",
            _refine,
            "the main subject's boxes become one tube, the span is tightened to it",
            "--data 2.jsonl --out 3.jsonl",
        )
    )
    _configure_filter(
        add(
            "filter",
            _filter,
            "ambiguous frames and tubes go; stvg annotation rows come out",
            "--data 3.jsonl --out stvg.jsonl",
        )
    )
    _configure_mix(
        add(
            "mix",
            _mix,
            "draw a training mixture from converted parts by their proportions",
            "--config examples/unistg/mix.yaml --data-dir data_info --out data_info/unistg/mix.jsonl",
        )
    )


def _configure_analyze(parser: argparse.ArgumentParser) -> None:
    _add_files(parser, "vtg annotation rows (JSONL): the query is the caption, the span is the coarse one")
    server = parser.add_argument_group("server", "anything that speaks OpenAI's chat protocol")
    server.add_argument("--base-url", required=True, metavar="URL", help="up to and with /v1")
    server.add_argument("--model", required=True, help="the name the server knows it by (the paper: Qwen2.5-72B)")
    server.add_argument(
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that holds the key; without one no key is sent (default: %(default)s)",
    )
    server.add_argument(
        "--concurrency", type=_count, default=16, help="captions at once, of each process (default: %(default)s)"
    )
    server.add_argument("--timeout", type=_positive, default=60.0, help="seconds per answer (default: %(default)s)")
    server.add_argument(
        "--retries",
        type=_whole,
        default=5,
        help="further tries after rate limits, server errors, timeouts and lost connections, and with --ray of rows whose "
        "process died (default: %(default)s)",
    )
    server.add_argument(
        "--backoff",
        type=_positive,
        default=1.0,
        help="seconds before the first further try, doubled each time; Retry-After counts (default: %(default)s)",
    )
    add_ray_arguments(parser, retries=False)


def _configure_annotate(parser: argparse.ArgumentParser) -> None:
    _add_files(parser, "what `analyze` wrote")
    parser.add_argument(
        "--media-dir", type=location, required=True, metavar="DIR", help="where relative media paths start; or s3://…"
    )
    parser.add_argument(
        "--detector",
        default="IDEA-Research/grounding-dino-base",
        help="Grounding-DINO checkpoint, a name on the hub or a folder (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=_fraction,
        default=0.3,
        help="least confidence of a box (default: %(default)s, the paper's)",
    )
    parser.add_argument("--stride", type=_count, default=1, help="look at every n-th frame (default: %(default)s)")
    parser.add_argument("--batch-size", type=_count, default=8, help="frames at once (default: %(default)s)")
    parser.add_argument("--device", help="for instance cuda:1 (default: a GPU if there is one)")
    add_ray_arguments(parser)


def _configure_refine(parser: argparse.ArgumentParser) -> None:
    _add_files(parser, "what `annotate` wrote")
    parser.add_argument(
        "--min-seconds", type=_not_negative, default=2.0, help="shorter spans go (default: %(default)s, the paper's)"
    )
    parser.add_argument(
        "--max-seconds", type=_positive, default=120.0, help="longer spans go (default: %(default)s, the paper's)"
    )
    parser.add_argument(
        "--link-iou", type=_fraction, default=0.3, help="least IoU of linked boxes (default: %(default)s, ours)"
    )
    parser.add_argument(
        "--link-gap",
        type=_not_negative,
        default=1.0,
        help="longest time without a box within a tube, in seconds (default: %(default)s, ours)",
    )
    add_ray_arguments(parser)


def _configure_filter(parser: argparse.ArgumentParser) -> None:
    _add_files(parser, "what `refine` wrote")
    parser.add_argument(
        "--max-boxes",
        type=_count,
        default=3,
        help="a frame with more boxes loses its own (default: %(default)s, the paper's)",
    )
    parser.add_argument(
        "--count",
        choices=("all", "subject"),
        default="all",
        help="count the boxes of all the caption's objects or of its main subject alone (default: %(default)s)",
    )
    parser.add_argument(
        "--max-area-ratio",
        type=_ratio,
        default=2.0,
        help="rows whose box grows or shrinks by more between neighbours go (default: %(default)s, the paper's)",
    )
    parser.add_argument(
        "--min-coverage",
        type=_fraction,
        default=0.5,
        help="rows with a box on less of the span's frames go; 0 for the paper's letter (default: %(default)s, ours)",
    )
    add_ray_arguments(parser)


def _configure_mix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="MIX.yaml", help="parts and proportions")
    parser.add_argument(
        "--data-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="where the parts' paths start; its dataset_info.json gets the entry",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.jsonl", help="the mixture")
    parser.add_argument("--name", help="of the entry (default: OUT's name without its suffix)")
    parser.add_argument("--total", type=_count, help="rows, instead of the YAML's")
    parser.add_argument("--seed", type=int, help="instead of the YAML's")


def _add_files(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="IN.jsonl", help=what)
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.jsonl", help=STAGE_FILES)
    parser.add_argument("--overwrite", action="store_true", help="start anew, whatever is there")


def _number(text: str, kind: type, least: float, most: float = float("inf"), above: bool = False) -> Any:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of its kind") from None

    if not (least < value if above else least <= value) or not value <= most:
        limits = f"{'above' if above else 'at least'} {least:g}" + (f" and at most {most:g}" if most < 1e9 else "")
        raise argparse.ArgumentTypeError(f"{text} must be {limits}")

    return value


def _count(text: str) -> int:
    return _number(text, int, 1)


def _whole(text: str) -> int:
    return _number(text, int, 0)


def _positive(text: str) -> float:
    return _number(text, float, 0, above=True)


def _not_negative(text: str) -> float:
    return _number(text, float, 0)


def _fraction(text: str) -> float:
    return _number(text, float, 0, 1)


def _ratio(text: str) -> float:
    return _number(text, float, 1)


def run(args: argparse.Namespace) -> None:
    """Run one stage."""
    from ..unistg.stage import StageError

    try:
        args.run_stage(args)
    except StageError as err:
        raise CommandError(f"{args.stage}: {err}") from None


def _analyze(args: argparse.Namespace) -> None:
    from ..unistg.endpoint import EndpointError

    make = partial(_analyzer, args, os.environ.get(args.api_key_env))
    try:
        _run(make(), make, args)
    except EndpointError as err:
        raise CommandError(f"analyze: {err}; what is finished is kept, the same command goes on") from None


def _analyzer(args: argparse.Namespace, api_key: str | None) -> Any:
    from ..unistg.analyzer import Analyzer
    from ..unistg.endpoint import Endpoint

    endpoint = Endpoint(
        args.base_url,
        args.model,
        api_key=api_key,
        timeout=args.timeout,
        retries=args.retries,
        backoff=args.backoff,
        concurrency=args.concurrency,
    )
    return Analyzer(endpoint, args.concurrency)


def _annotate(args: argparse.Namespace) -> None:
    if isinstance(args.media_dir, Path) and not args.media_dir.is_dir():
        raise CommandError(f"annotate: --media-dir {args.media_dir} is not a folder")

    stage = _annotator(args, None if args.ray else _detector(args))
    _run(stage, partial(_loaded_annotator, args), args, use_gpus=True)


def _loaded_annotator(args: argparse.Namespace) -> Any:
    return _annotator(args, _detector(args))


def _annotator(args: argparse.Namespace, detector: Any) -> Any:
    from ..unistg.annotator import Annotator

    options = {"detector": args.detector, "threshold": args.threshold}
    return Annotator(detector, args.media_dir, options, args.stride, args.batch_size)


def _detector(args: argparse.Namespace) -> Any:
    from ..unistg.detector import GroundingDino

    try:
        with loading(args.verbose):
            return GroundingDino(args.detector, args.threshold, args.device)
    except (OSError, ValueError, RuntimeError) as err:
        raise CommandError(f"annotate: {args.detector}: {' '.join(str(err).split())[:300]}") from None


def _refine(args: argparse.Namespace) -> None:
    from ..unistg.refiner import Refiner

    if args.min_seconds > args.max_seconds:
        raise CommandError("refine: --min-seconds is above --max-seconds")

    make = partial(Refiner, args.min_seconds, args.max_seconds, args.link_iou, args.link_gap)
    _run(make(), make, args)


def _filter(args: argparse.Namespace) -> None:
    from ..unistg.filter import Filter

    make = partial(Filter, args.max_boxes, args.count, args.max_area_ratio, args.min_coverage)
    _run(make(), make, args)


def _run(stage: Any, make: Callable[[], Any], args: argparse.Namespace, use_gpus: bool = False) -> None:
    """Run a stage; `make` makes the same in a worker."""
    from ..unistg.stage import COMMON_REASONS, RARE_REASONS, run_stage

    check_outputs({"--data": args.data}, files={"--out": args.out})
    # A language model's server has always been tried again.
    retries = args.retries if args.stage == "analyze" else retries_of(args)
    with sharing(args) as cluster:
        if cluster is not None:
            from ..distributed.stages import SharedStage, make_stage_work

            crew = cluster.crew(partial(make_stage_work, make), use_gpus)
            stage = SharedStage(stage, crew, retries, tell)

        report = run_stage(stage, args.data, args.out, args.overwrite)

    meanings = {**COMMON_REASONS, **RARE_REASONS, **stage.reasons}
    rejected = report["rejected"]
    lines = [("in", report["in"], str(args.data)), ("out", report["out"], str(args.out))]
    lines += [(f"- {reason}", count, meanings[reason]) for reason, count in rejected.items()]
    lines += [(name, count, "") for name, count in report["totals"].items()]
    _print_table(lines)
    if report["in"] and not report["out"]:
        reason = max(rejected, key=rejected.get)
        print(f"warning: no row is left, most for {reason!r}: see {args.out}.rejects.jsonl", file=sys.stderr)


def _mix(args: argparse.Namespace) -> None:
    from ..unistg.mix import Mixture, mix

    check_outputs({"--config": args.config}, files={"--out": args.out})
    mixture = Mixture.load(args.config)
    given = {key: value for key in ("total", "seed") if (value := getattr(args, key)) is not None}
    mixture = mixture.model_copy(update=given)
    name = args.name or args.out.stem
    report = mix(mixture, args.data_dir, args.out, name)

    total, wanted_total = report["total"], mixture.total
    lines = [("part", "wanted", "there", "taken", "share wanted", "share reached")]
    for part, counts in report["parts"].items():
        shares = (counts["wanted"] / wanted_total, counts["rows"] / max(total, 1))
        lines.append((part, counts["wanted"], counts["there"], counts["rows"], *(f"{share:.1%}" for share in shares)))

    there = sum(counts["there"] for counts in report["parts"].values())
    lines.append(("all", wanted_total, there, total, "", ""))
    _print_table(lines)
    print("by task: " + ", ".join(f"{task} {count}" for task, count in report["tasks"].items()))
    for part, counts in report["parts"].items():
        if counts["there"] < counts["wanted"]:
            missing = counts["wanted"] - counts["there"]
            what = f"{counts['repeated']} rows are repeated" if counts["repeated"] else "the mixture is smaller"
            print(f"warning: part {part!r} has {missing} rows fewer than wanted: {what}", file=sys.stderr)

    if report["bad_rows"] or report["duplicate_ids"]:
        print(
            f"warning: left out {report['bad_rows']} bad rows and {report['duplicate_ids']} with an id that was there "
            "before" + (f", for instance {report['examples'][0]}" if report["examples"] else ""),
            file=sys.stderr,
        )

    print(f"{args.out}, {name!r} in {args.data_dir / 'dataset_info.json'}")


def _print_table(lines: list[tuple]) -> None:
    """Columns of equal width; numbers to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line, texts in zip(lines, cells):
        padded = (
            text.rjust(width) if isinstance(cell, int) or "%" in text else text.ljust(width)
            for cell, text, width in zip(line, texts, widths)
        )
        print("  ".join(padded).rstrip())
