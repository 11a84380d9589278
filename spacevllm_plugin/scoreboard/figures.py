"""Figures of a report."""

import numpy as np
from matplotlib.figure import Figure

from ..data.output import replaced
from ..evaluation import EvaluationResult
from ..evaluation.protocols.native import REC_THRESHOLD, STVG_THRESHOLDS, VTG_THRESHOLDS
from .folder import RunFolder


BINS = np.linspace(0, 1, 21)
# Points of the curve over span length, and how many items each needs for its mean to say something.
LENGTH_BINS, LEAST_ITEMS = 8, 5
COLOR, ACCENT, LINE = "#0072B2", "#D55E00", "#555555"

# Task -> the column whose distribution is shown, the thresholds marked in it, and whether an item at one has passed it.
DISTRIBUTIONS = {
    "stvg": ("vIoU", STVG_THRESHOLDS, False),
    "vtg": ("IoU", VTG_THRESHOLDS, True),
    "rec": ("IoU", (REC_THRESHOLD,), True),
}
# Task -> the column shown against the length of the true span.
AGAINST_LENGTH = {"stvg": "tIoU", "vtg": "IoU"}


def draw_figures(run: RunFolder, result: EvaluationResult) -> list[str]:
    """Draw what the task allows into `figures/`; the paths below the run's folder."""
    folder = run.out / "figures"
    title = f"{run.benchmark.name}, protocol {result.protocol}, {len(result.items)} items"
    figures = {}
    if result.task in DISTRIBUTIONS:
        column, *marks = DISTRIBUTIONS[result.task]
        figures[f"{column}_distribution"] = distribution(_values(result, column), column, *marks, title)

    if result.task in AGAINST_LENGTH:
        column = AGAINST_LENGTH[result.task]
        spans = {row.id: row.target.span_seconds for row in run.rows()}
        lengths = np.array([spans[item["id"]][1] - spans[item["id"]][0] for item in result.items])
        figures[f"{column}_by_span_length"] = against_length(lengths, _values(result, column), column, title)

    if result.task == "qa":
        figures["accuracy_by_group"] = accuracies(result, title)

    for name, figure in figures.items():
        with replaced(folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=150)

    return [f"figures/{name}.png" for name in figures]


def distribution(
    values: np.ndarray, column: str, thresholds: tuple[float, ...], inclusive: bool, title: str
) -> Figure:
    """A histogram of fractions, with its mean, and the share of items above (or at) each threshold."""
    figure, axes = _figure(title)
    axes.hist(values, bins=BINS, color=COLOR, edgecolor="white", linewidth=0.5)
    axes.axvline(values.mean(), color=ACCENT, label=f"mean {values.mean():.3f}")
    for threshold, style in zip(thresholds, (":", "--", "-.")):
        share = (values >= threshold if inclusive else values > threshold).mean()
        axes.axvline(
            threshold,
            color=LINE,
            linestyle=style,
            label=f"{'at least' if inclusive else 'above'} {threshold}: {share:.1%}",
        )

    axes.set(xlabel=column, ylabel="items", xlim=(0, 1))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return figure


def against_length(lengths: np.ndarray, values: np.ndarray, column: str, title: str) -> Figure:
    """Every item at the length of its true span in seconds, and the mean over bins that hold equally many items."""
    figure, axes = _figure(title)
    axes.scatter(lengths, values, s=16, alpha=0.45, color=COLOR, linewidths=0, label="items")
    count = min(LENGTH_BINS, len(lengths) // LEAST_ITEMS)
    if count:
        chunks = np.array_split(np.argsort(lengths, kind="stable"), count)
        middles, means = zip(*((lengths[chunk].mean(), values[chunk].mean()) for chunk in chunks))
        items = " to ".join(map(str, sorted({len(chunk) for chunk in chunks})))
        axes.plot(middles, means, color=ACCENT, marker="o", label=f"mean of {items} items of similar length")

    axes.set(xlabel="length of the true span (s)", ylabel=column, ylim=(-0.02, 1.02))
    axes.legend(frameon=False)
    return figure


def accuracies(result: EvaluationResult, title: str) -> Figure:
    """Accuracy of each group of a question-answering set, and of each value of its tags."""
    report = result.report()
    bars = {name: group for name, group in report["groups"].items() if name != "all"}
    for tag, groups in report.get("breakdown", {}).items():
        bars.update({f"{tag}: {value}": group for value, group in groups.items()})

    bars["all"] = report["groups"]["all"]
    figure, axes = _figure(title, height=1.5 + 0.25 * len(bars))
    names = [f"{name} ({group['n']})" for name, group in bars.items()]
    axes.barh(names, [group["accuracy"] or 0 for group in bars.values()], color=COLOR)
    axes.invert_yaxis()
    axes.set(xlabel="accuracy", xlim=(0, 1))
    return figure


def _figure(title: str, height: float = 4.2) -> tuple:
    # Not pyplot: it keeps figures and picks a display.
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _values(result: EvaluationResult, column: str) -> np.ndarray:
    return np.array([item[column] for item in result.items], dtype=float)
