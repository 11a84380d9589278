"""The figures of one group of items."""

import numpy as np

from ..data.shortened import shortened
from .intervals import confidence_intervals
from .protocols.scorer import Rules, Scorer


ALL = "all"
ERROR_WIDTH = 160
_EDGES = {"id", "group", "error"}


def summarise(
    scorer: Scorer, rules: Rules, items: list[dict], stopping: list[dict], resamples: int = 0, seed: int = 0
) -> dict:
    """Figures of a group.

    Args:
        scorer: How the items were scored.
        rules: What the user chose.
        items: Those that count in the means.
        stopping: Those among them at which the published code would stop.
        resamples: Bootstrap resamples; 0 for no intervals.
        seed: Of the bootstrap.

    Returns:
        `n`, how many items are in the means, then each figure as a fraction. A figure that the protocol does not give
        is None and `nulls` says why; where the published code would stop all are None and `error` says where. `ci` has
        the lower and upper end for each figure that is a number.
    """
    columns = _columns(scorer, items)
    per_item = {name: np.asarray(values, dtype=float) for name, values in scorer.figures(columns, rules).items()}
    if stopping:
        more = len(stopping) - 1
        error = _where(stopping[0]) + (f" (and {more} more items)" if more else "")
        return {"n": len(items), **dict.fromkeys(per_item), "error": error}

    if not items:
        return {"n": 0, **dict.fromkeys(per_item), "error": "no item is left in the mean"}

    means = {name: float(values.mean()) for name, values in per_item.items()}
    figures = {name: None if np.isnan(mean) else mean for name, mean in means.items()}
    nulls = {name: _reason(scorer, items, name) for name, mean in figures.items() if mean is None}
    summary = {"n": len(items), **figures}
    if nulls:
        summary["nulls"] = nulls

    known = [name for name, mean in figures.items() if mean is not None]
    if resamples and known:
        ends = confidence_intervals(np.stack([per_item[name] for name in known], axis=-1), resamples, seed)
        summary["ci"] = dict(zip(known, ends.tolist()))

    return summary


def _columns(scorer: Scorer, items: list[dict]) -> dict[str, np.ndarray]:
    """Every column that any item has; NaN where an item has no value."""
    names = dict.fromkeys([*scorer.columns, *(name for item in items for name in item if name not in _EDGES)])
    return {name: np.array([_number(item.get(name)) for item in items], dtype=float) for name in names}


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _reason(scorer: Scorer, items: list[dict], figure: str) -> str:
    if figure in (scorer.undefined or {}):
        return scorer.undefined[figure]

    for item in items:
        if item["error"] and any(value is None for name, value in item.items() if name not in _EDGES):
            return _where(item)

    return "some items have no such score"


def _where(item: dict) -> str:
    return f"item {shortened(item['id'])}: {shortened(item['error'], ERROR_WIDTH)}"
