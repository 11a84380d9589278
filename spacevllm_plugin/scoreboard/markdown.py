"""A report as Markdown; figures in per cent, as papers print them."""

from collections.abc import Iterable
from typing import Any

from ..data.shortened import shortened


# Of a group, what is not a figure.
NOTES = ("n", "error", "nulls", "ci")
NONE = "–"
ANSWER_WIDTH = 500


def render(report: dict[str, Any]) -> str:
    """The page of one benchmark."""
    headline, *others = report["scores"]
    parts = [
        f"# {report['benchmark']}",
        _run(report),
        "## Data",
        _data(report),
        "## Scores",
        f"Protocol `{headline['name']}`, fill `{report['fill']}`, in per cent; in brackets the {report['ci']['level']:.0%} "
        f"bootstrap interval of {report['ci']['resamples']} resamples.",
        score_table(headline["groups"]),
        _notes(headline),
    ]
    for name, groups in headline.get("breakdown", {}).items():
        parts += [f"By {name}:", score_table(groups)]

    if report["published"]:
        parts += ["## Published", _published(report)]

    if others:
        parts += ["## As published scripts score the same predictions"]
        for scoring in others:
            parts += [f"`{scoring['name']}`", score_table(scoring["groups"]), _notes(scoring)]

    if report["figures"]:
        parts += ["## Figures", *(f"![{path}]({path})" for path in report["figures"])]

    if report["worst"]:
        parts += ["## Worst items", "Ground truth in green, prediction in orange.", *map(_worst, report["worst"])]

    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: list[str], lines: Iterable[list[str]]) -> str:
    """A Markdown table; all but the first column at the right."""
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in per cent; a dash for none."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


def figure_names(groups: Iterable[dict]) -> list[str]:
    """The figures that any of the groups has, in order."""
    return list(dict.fromkeys(name for group in groups for name in group if name not in NOTES))


def score_table(groups: dict[str, dict]) -> str:
    """Figures per group."""
    names = figure_names(groups.values())
    lines = []
    for name, group in groups.items():
        ends = group.get("ci", {})
        cells = [percent(group.get(figure)) for figure in names]
        for place, figure in enumerate(names):
            if figure in ends:
                cells[place] += " [{}, {}]".format(*map(percent, ends[figure]))

        lines.append([shortened(name), str(group["n"]), *cells])

    return table(["group", "n", *names], lines)


def _run(report: dict[str, Any]) -> str:
    settings = report["settings"]
    lines = [
        ["model", f"`{settings['model']}`"],
        ["adapter", f"`{settings['adapter']}`" if settings["adapter"] else NONE],
    ]
    lines += [[f"argument `{name}`", str(value)] for name, value in settings["arguments"].items()]
    lines += [[name.replace("_", " "), str(settings[name])] for name in ("max_new_tokens", "batch_size")]
    if settings["limit"] is not None:
        lines.append(["limit", f"**the first {settings['limit']} rows only**"])

    sampling = settings["sampling"]
    lines += [[f"`{name}`", str(value)] for part in sampling.values() for name, value in part.items()]
    lines += [[name, version or NONE] for name, version in settings["versions"].items()]
    return table(["run", ""], lines)


def _data(report: dict[str, Any]) -> str:
    counts = ("read", "kept", "repaired", "dropped")
    lines = [[name, *(str(part["rows"][count]) for count in counts)] for name, part in report["data"].items()]
    reasons = [
        f"- {name}: {kind}: " + ", ".join(f"{reason} {count}" for reason, count in part[kind].items())
        for name, part in report["data"].items()
        for kind in ("repaired", "dropped")
        if part[kind]
    ]
    notes = [f"- {name}: {part['note']}" for name, part in report["data"].items() if "note" in part]
    answers = "Answers: " + ", ".join(f"{name} {count}" for name, count in report["counts"].items())
    return "\n\n".join(filter(None, [table(["set", *counts], lines), "\n".join(reasons + notes), answers]))


def _published(report: dict[str, Any]) -> str:
    own = report["scores"][0]["groups"]
    names = figure_names(row["figures"] for row in report["published"])
    lines = []
    for group in dict.fromkeys(row["group"] for row in report["published"]):
        figures = own.get(group, {})
        lines.append(["**this run**", group, *(percent(figures.get(name)) for name in names)])
        lines += [
            [row["system"], group, *(percent(row["figures"].get(name), 1) for name in names)]
            for row in report["published"]
            if row["group"] == group
        ]

    return table(["system", "group", *names], lines)


def _notes(scoring: dict[str, Any]) -> str:
    notes = [*scoring.get("warnings", ()), *([scoring["error"]] if "error" in scoring else ())]
    for name, group in scoring["groups"].items():
        notes += [f"{name}: {figure}: {reason}" for figure, reason in group.get("nulls", {}).items()]

    return "\n".join(f"- {note}" for note in notes)


def _worst(item: dict[str, Any]) -> str:
    scores = ", ".join(f"{name} {percent(value)}" for name, value in item.items() if isinstance(value, float))
    name = shortened(item["id"])
    answer = shortened(" ".join(item["text"].split()), ANSWER_WIDTH).replace("`", "'")
    picture = f"![{name}]({item['picture']})" if item["picture"] else f"not drawn ({item['error']})"
    return f"`{name}`: {scores}; answered `{answer}`\n\n{picture}"
