"""Whether a protocol's way has changed a number, and why a number is none."""

import math

import numpy as np


def changed(values: dict, plain: dict, *names: str) -> bool:
    """Whether any of the named values differs from the `native` ones by more than rounding; none and NaN differ."""
    return any(_differ(values[name], plain[name]) for name in names)


def _differ(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is not b

    return not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def nan_reason(ious: np.ndarray, frames: np.ndarray) -> str | None:
    """One line that names the first frame whose IoU is NaN; None if there is none."""
    bad = np.isnan(ious)
    return f"the box IoU at frame {frames[bad][0]} is 0/0 or not a number" if bad.any() else None
