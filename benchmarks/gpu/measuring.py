"""Seconds and peak memory of sides that take turns."""

import ctypes
import gc
import re
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Measurement:
    """One run of something.

    Attributes:
        seconds: Wall time, until the device has finished.
        peak_gib: Most device memory allocated meanwhile. Without a GPU, most memory of the whole process meanwhile, what it
            has imported and loaded before included (where the system cannot tell, since the process began).
    """

    seconds: float
    peak_gib: float


Side = Callable[[], Measurement | None]  # None: memory has ended


def measured(action: Callable[[], Any]) -> Measurement:
    """Run something."""
    on_gpu = torch.cuda.is_available()
    gc.collect()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        _forget_peak()

    start = time.perf_counter()
    action()
    if on_gpu:
        torch.cuda.synchronize()

    seconds = time.perf_counter() - start
    return Measurement(seconds, (torch.cuda.max_memory_allocated() if on_gpu else _peak()) / 2**30)


def _forget_peak() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what an earlier action has freed is not this one's
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        pass


def _peak() -> int:
    try:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    except (OSError, TypeError):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def unless_out_of_memory(action: Callable[[], Any]) -> Any:
    """What an action returns; None if memory has ended. What it held then is free again."""
    try:
        return action()
    except torch.OutOfMemoryError:
        pass
    except RuntimeError as err:  # the host's allocator
        if "can't allocate memory" not in str(err):
            raise

    gc.collect()
    torch.cuda.empty_cache()
    return None


def take_turns(sides: dict[str, Side], turns: int) -> dict[str, list[Measurement]]:
    """Let the sides take turns; one without memory takes no more, and is left with no measurement."""
    taken: dict[str, list[Measurement]] = {name: [] for name in sides}
    ended = set()
    for _ in range(turns):
        for name, side in sides.items():
            one = side() if name not in ended else None
            if one is None:
                ended.add(name)
            else:
                taken[name].append(one)

    return {name: [] if name in ended else own for name, own in taken.items()}


def rows_of(taken: dict[str, list[Measurement]], base: str, **columns: Any) -> list[dict[str, Any]]:
    """A row of a table for each side: medians, spreads and highest peaks, and what they are of the base's.

    Args:
        taken: What `take_turns` returns.
        base: The side that the others are compared with.
        **columns: What all rows say beside, before the side's name.
    """
    summaries = {name: _summary(own) for name, own in taken.items()}
    one = summaries[base]
    rows = []
    for name, own in summaries.items():
        both = own["seconds"] is not None and one["seconds"] is not None
        ratios = {
            "ratio": own["seconds"] / one["seconds"] if both else None,
            "peak_ratio": own["peak_gib"] / one["peak_gib"] if both else None,
        }
        rows.append({**columns, "side": name, **own, **ratios})

    return rows


def _summary(samples: list[Measurement]) -> dict[str, Any]:
    seconds = [one.seconds for one in samples]
    return {
        "seconds": statistics.median(seconds) if samples else None,
        "spread": max(seconds) - min(seconds) if samples else None,
        "peak_gib": max(one.peak_gib for one in samples) if samples else None,
        "outcome": f"{len(samples)} turns" if samples else "out of memory",
    }


def compare(sides: dict[str, Callable[[], Measurement]], turns: int) -> dict[str, dict[str, float]]:
    """Let two sides take turns; median seconds and highest peak of each, and the first side's over the second's."""
    result = {
        name: {
            "seconds": statistics.median(one.seconds for one in own),
            "peak_gib": max(one.peak_gib for one in own),
        }
        for name, own in take_turns(sides, turns).items()
    }
    first, second = result.values()
    return {**result, "ratio": {name: first[name] / second[name] for name in first}}
