"""All benchmarks in one table, beside the published rows."""

import json
from pathlib import Path
from typing import Any

from ..data.output import Outputs
from .markdown import NONE, figure_names, percent, table
from .published import published


# The figures of each task that the table shows.
FIGURES = {
    "stvg": ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5"),
    "vtg": ("mIoU", "R1@0.3", "R1@0.5", "R1@0.7"),
    "rec": ("Acc@0.5",),
    "qa": ("accuracy",),
}


def overview_table(reports: list[dict[str, Any]]) -> str:
    """One line for each benchmark and group: the run's figures under `native`, then every published system's.

    Args:
        reports: Reports of single benchmarks.
    """
    rows = published()
    systems = list(dict.fromkeys(row.system for row in rows))
    lines = []
    for report in reports:
        names = FIGURES[report["task"]]
        groups = report["scores"][0]["groups"]
        for group in _groups(report["task"], groups):
            known = {
                row.system: row.figures for row in rows if (row.benchmark, row.group) == (report["benchmark"], group)
            }
            lines.append(
                [
                    report["benchmark"],
                    group,
                    " / ".join(names),
                    _cell(groups[group], names, 2),
                    *(_cell(known[system], names, 1) if system in known else NONE for system in systems),
                ]
            )

    return table(["benchmark", "group", "figures", "this run", *systems], lines)


def _groups(task: str, groups: dict[str, dict]) -> list[str]:
    """The groups worth a line: those that papers report apart; `all` where there is one kind of rows only."""
    named = [name for name in groups if name != "all"]
    return named if task in ("stvg", "rec") and len(named) > 1 else ["all"]


def _cell(figures: dict[str, float], names: tuple[str, ...], digits: int) -> str:
    known = figure_names([figures])
    return " / ".join(percent(figures.get(name) if name in known else None, digits) for name in names)


def write_overview(
    reports: list[dict[str, Any]], missing: dict[str, list[str]], failed: dict[str, str], out: Path
) -> str:
    """Write `report.json` and `report.md` of `benchmark all`.

    Args:
        reports: Of the benchmarks that ran.
        missing: Benchmark -> what it lacks.
        failed: Benchmark -> why it stopped.
        out: The folder that holds the benchmarks' own folders.

    Returns:
        The page.
    """
    lines = ["# All benchmarks", "Per cent, protocol `native`; published figures under their own protocols."]
    lines.append(overview_table(reports) if reports else "None ran.")
    notes = [f"- {name}: not run, {', '.join(paths)} missing" for name, paths in missing.items()]
    notes += [f"- {name}: stopped: {reason}" for name, reason in failed.items()]
    page = "\n\n".join([*lines, *(["\n".join(notes)] if notes else [])]) + "\n"
    data = {"reports": {report["benchmark"]: report for report in reports}, "missing": missing, "failed": failed}
    with Outputs() as outputs:
        outputs.open(out / "report.md").write(page.encode())
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
        outputs.open(out / "report.json").write(text.encode() + b"\n")

    return page
