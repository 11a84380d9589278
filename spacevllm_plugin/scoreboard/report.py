"""The report of a run: scores, figures, pictures of the worst items."""

import json
from typing import Any

from ..data.output import Outputs
from ..data.schema import PredictionRow, read_rows
from ..evaluation import EvaluationResult, evaluate
from ..evaluation.intervals import LEVEL, RESAMPLES
from .figures import draw_figures
from .folder import RunFolder
from .markdown import render
from .published import published
from .worst import draw_worst


SEED = 0


def write_report(run: RunFolder) -> dict[str, Any]:
    """Score a run's predictions and write `report.json`, `report.md` and the pictures.

    Nothing in it depends on when, where or in how many sessions the run was made: times are in `sessions.jsonl`.

    Returns:
        What `report.json` holds.
    """
    benchmark = run.benchmark
    headline: EvaluationResult | None = None
    scores = []
    for scoring in benchmark.scorings:
        result = evaluate(
            benchmark.task,
            run.rows(),
            read_rows(run.predictions, PredictionRow),
            scoring.protocol,
            rules=scoring.rules,
        )
        headline = headline or result
        figures = result.report(RESAMPLES if result is headline else 0, SEED)
        scores.append({"name": scoring.name, **{name: figures[name] for name in figures if name != "task"}})

    report = {
        "benchmark": benchmark.name,
        "task": benchmark.task,
        "settings": run.settings.as_dict(),
        "fill": "linear",
        "ci": {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
        "data": run.summaries(),
        "counts": headline.counts,
        "scores": scores,
        "published": [
            {"system": row.system, "group": row.group, "figures": row.figures} for row in published(benchmark.name)
        ],
        "figures": draw_figures(run, headline),
        "worst": draw_worst(run, headline),
    }
    with Outputs() as outputs:
        data = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
        outputs.open(run.out / "report.json").write(data.encode() + b"\n")
        outputs.open(run.out / "report.md").write(render(report).encode())

    return report
