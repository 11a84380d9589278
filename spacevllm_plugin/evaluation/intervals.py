"""Confidence intervals of means, by resampling the items."""

import numpy as np


LEVEL = 0.95
RESAMPLES, MOST_RESAMPLES = 1000, 1_000_000
# Resamples drawn at once: bounds the memory for large sets.
CHUNK_CELLS = 4_000_000


def confidence_intervals(values: np.ndarray, resamples: int, seed: int, level: float = LEVEL) -> np.ndarray:
    """Percentile bootstrap of the means of several columns over the same items.

    Args:
        values: One row per item, one column per figure, shape (n, k); a NaN makes its column's interval NaN.
        resamples: How many times n items are drawn with replacement.
        seed: Of the draw; the same seed and n give the same resamples for every column.
        level: Share of the resampled means inside.

    Returns:
        Lower and upper ends, shape (k, 2).
    """
    n, k = values.shape
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, k))
    step = max(1, CHUNK_CELLS // n)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        # How often each item is drawn: the same as drawing n indices and counting them.
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=count)
        means[start : start + count] = drawn @ values / n

    tail = (1 - level) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0).T
