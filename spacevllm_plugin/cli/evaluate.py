"""`spacevllm-cli evaluate`: score predictions against annotations."""

import argparse
import json
import sys

from ..data.schema import PredictionRow, read_rows
from ..evaluation import EvaluationResult, evaluate
from ..evaluation.answer import FILLS
from ..evaluation.protocols import PROTOCOLS


EXAMPLE = "spacevllm-cli evaluate stvg --gt annotations.jsonl --pred predictions.jsonl --out scores.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("task", choices=list(PROTOCOLS["native"]), help="rows of other tasks are passed over")
    parser.add_argument("--gt", required=True, metavar="G.jsonl", help="annotation rows")
    parser.add_argument("--pred", required=True, metavar="P.jsonl", help="prediction rows")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="native", help="default: %(default)s")
    parser.add_argument(
        "--fill",
        choices=FILLS,
        default="linear",
        help="frames without a predicted box: interpolate and hold the edges, or count 0 (default: %(default)s)",
    )
    parser.add_argument("--items", metavar="I.jsonl", help="write the scores of every item")
    parser.add_argument("--out", metavar="M.json", help="write the table as JSON")


def run(args: argparse.Namespace) -> None:
    """Score, print, write."""
    predictions = read_rows(args.pred, PredictionRow)
    result = evaluate(args.task, read_rows(args.gt), predictions, args.protocol, args.fill)
    if result.unknown_ids:
        count, first = len(result.unknown_ids), result.unknown_ids[0]
        print(f"warning: {count} predictions belong to no annotation row, for instance {first}", file=sys.stderr)

    report = result.report()
    print(f"{args.task}, protocol {args.protocol}, fill {args.fill} (fractions)\n")
    print(_table(report["groups"]))
    print("\n" + ", ".join(f"{name} {count}" for name, count in report["counts"].items()))
    _write(args, result, report)


def _table(groups: dict[str, dict]) -> str:
    header = ["group", *next(iter(groups.values()))]
    lines = [header]
    for name, figures in groups.items():
        lines.append([name, *(str(v) if isinstance(v, int) else f"{v:.4f}" for v in figures.values())])

    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:]))])
        for line in lines
    )


def _write(args: argparse.Namespace, result: EvaluationResult, report: dict) -> None:
    if args.items:
        with open(args.items, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in result.items)

    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            file.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
