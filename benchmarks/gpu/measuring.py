"""Seconds and peak memory of two sides that take turns."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Measurement:
    """One run of something.

    Attributes:
        seconds: Wall time, until the device has finished.
        peak_gib: Most device memory allocated meanwhile. Without a GPU it is the process's own peak since it began,
            which says nothing of one side.
    """

    seconds: float
    peak_gib: float


def measured(action: Callable[[], Any]) -> Measurement:
    """Run something."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    start = time.perf_counter()
    action()
    if on_gpu:
        torch.cuda.synchronize()

    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measurement(seconds, peak / 2**30)


def compare(sides: dict[str, Callable[[], Measurement]], turns: int) -> dict[str, dict[str, float]]:
    """Let the sides take turns; median seconds and highest peak of each, and the first side's over the second's."""
    taken: dict[str, list[Measurement]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            taken[name].append(side())

    result = {
        name: {
            "seconds": statistics.median(one.seconds for one in own),
            "peak_gib": max(one.peak_gib for one in own),
        }
        for name, own in taken.items()
    }
    first, second = result.values()
    return {**result, "ratio": {name: first[name] / second[name] for name in first}}
