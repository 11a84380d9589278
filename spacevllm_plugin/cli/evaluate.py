"""`spacevllm-cli evaluate`: score predictions against annotations."""

import argparse
import json
import sys

from ..data.limits import MOST_SHIFT
from ..data.output import Outputs
from ..data.schema import PredictionRow, read_rows
from ..data.shortened import shortened
from ..evaluation import EvaluationResult, Rules, evaluate
from ..evaluation.answer import FILLS
from ..evaluation.intervals import LEVEL, MOST_RESAMPLES, RESAMPLES
from ..evaluation.protocols import PROTOCOLS
from .errors import UsageError
from .locations import local_rows, location
from .outputs import apart_from, check_outputs


EXAMPLE = "spacevllm-cli evaluate stvg --gt annotations.jsonl --pred predictions.jsonl --out scores.json"
GROUP_WIDTH = 40
# Of a group, what is not a figure.
NOTES = ("error", "nulls", "ci")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("task", choices=list(PROTOCOLS["native"]), help="rows of other tasks are passed over")
    parser.add_argument("--gt", type=location, required=True, metavar="G.jsonl", help="annotation rows; or s3://…")
    parser.add_argument("--pred", type=location, required=True, metavar="P.jsonl", help="prediction rows; or s3://…")
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        default="native",
        help="native (default) for all tasks; stvg as a published script scores it: tubedetr, stcat, cgstvg, tastvg, hcstvg, "
        "stalign; rec: mdetr, mattnet, qwenvl",
    )
    parser.add_argument(
        "--fill",
        choices=FILLS,
        default="linear",
        help="frames without a predicted box: interpolate and hold the edges, or count 0 (default: %(default)s)",
    )
    parser.add_argument(
        "--gt-shift",
        type=int,
        default=0,
        metavar="N",
        help="stvg: move every true span and its boxes by N frames; 1 for HC-STVG as tubedetr has it",
    )
    parser.add_argument(
        "--gt-end-shift",
        type=int,
        default=0,
        metavar="N",
        help="stvg: move the end of every true span by N frames; -1 for HC-STVG as stcat, cgstvg, tastvg have it",
    )
    parser.add_argument(
        "--threshold",
        choices=("ge", "gt"),
        default="ge",
        help="vtg: a hit has an IoU at or above the threshold (ge: TALL, Moment-DETR, UniVTG), or above (gt: 2D-TAN, "
        "LLaVA-ST) (default: %(default)s)",
    )
    parser.add_argument(
        "--ci",
        type=int,
        nargs="?",
        const=RESAMPLES,
        default=0,
        metavar="N",
        help=f"add {LEVEL:.0%}% bootstrap confidence intervals from N resamples of the items (default: {RESAMPLES})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--items", type=location, metavar="I.jsonl", help="write the scores of every item")
    parser.add_argument("--out", type=location, metavar="M.json", help="write the table as JSON")


def run(args: argparse.Namespace) -> None:
    """Score, print, write."""
    _check_usage(args)
    check_outputs({"--gt": args.gt, "--pred": args.pred}, {"--items": args.items, "--out": args.out})
    with Outputs() as outputs, apart_from(args.items, args.out):
        # Opened before the work: what cannot be written is better known then.
        items, out = (path and outputs.open(path) for path in (args.items, args.out))
        result, report = _score(args)
        if items:
            items.writelines((json.dumps(item, ensure_ascii=False) + "\n").encode() for item in result.items)

        if out:
            out.write(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def _score(args: argparse.Namespace) -> tuple[EvaluationResult, dict]:
    """The scores, printed."""
    rules = Rules(args.gt_shift, args.gt_end_shift, strict=args.threshold == "gt")
    with local_rows(args.gt) as truth, local_rows(args.pred) as predicted:
        rows, predictions = read_rows(truth), read_rows(predicted, PredictionRow)
        result = evaluate(args.task, rows, predictions, args.protocol, args.fill, rules)

    if result.unknown_ids:
        count, first = len(result.unknown_ids), shortened(result.unknown_ids[0])
        print(f"warning: {count} predictions belong to no annotation row, for instance {first}", file=sys.stderr)

    report = result.report(args.ci, args.seed)
    if args.ci:
        report["ci"] = {"level": LEVEL, "resamples": args.ci, "seed": args.seed}

    for line in [*report.get("warnings", ()), *([report["error"]] if "error" in report else ())]:
        print(f"warning: {line}", file=sys.stderr)

    print(f"{args.task}, protocol {args.protocol}, fill {args.fill} (fractions)\n")
    print(_table(report["groups"]))
    for name, groups in report.get("breakdown", {}).items():
        print(f"\nby {shortened(name)}\n" + _table(groups))

    print("\n" + ", ".join(f"{name} {count}" for name, count in report["counts"].items()))
    return result, report


def _check_usage(args: argparse.Namespace) -> None:
    if args.task not in PROTOCOLS[args.protocol]:
        known = ", ".join(name for name, tasks in PROTOCOLS.items() if args.task in tasks)
        raise UsageError(f"--protocol {args.protocol} does not score {args.task}; choose from {known}")

    for option, shift in (("--gt-shift", args.gt_shift), ("--gt-end-shift", args.gt_end_shift)):
        if shift and args.task != "stvg":
            raise UsageError(f"{option} is for stvg only")

        if abs(shift) > MOST_SHIFT:
            raise UsageError(f"{option} takes {MOST_SHIFT} frames at most, in either direction")

    if args.threshold == "gt" and args.task != "vtg":
        raise UsageError("--threshold is for vtg only; elsewhere the protocol says")

    if not 0 <= args.ci <= MOST_RESAMPLES:
        raise UsageError(f"--ci takes a number from 1 to {MOST_RESAMPLES}")

    if args.seed < 0:
        raise UsageError("--seed takes a number from 0 on")


def _table(groups: dict[str, dict]) -> str:
    header = ["group", *dict.fromkeys(name for figures in groups.values() for name in figures if name not in NOTES)]
    lines = [header]
    for name, figures in groups.items():
        lines.append([shortened(name, GROUP_WIDTH), *(_cell(figures.get(column)) for column in header[1:])])
        for figure, (low, high) in figures.get("ci", {}).items():
            lines[-1][header.index(figure)] += f" [{low:.4f}, {high:.4f}]"

    widths = [max(map(len, column)) for column in zip(*lines)]
    table = "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:]))])
        for line in lines
    )
    reasons = [
        f"{shortened(name, GROUP_WIDTH)}: {reason}"
        for name, figures in groups.items()
        for reason in [figures.get("error"), *(f"{k}: {v}" for k, v in figures.get("nulls", {}).items())]
        if reason
    ]
    return "\n".join([table, *reasons])


def _cell(value: float | None) -> str:
    if value is None:
        return "none"

    return str(value) if isinstance(value, int) else f"{value:.4f}"
