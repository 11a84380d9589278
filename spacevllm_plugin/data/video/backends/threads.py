"""How many threads one decoder may use."""

import os
import sys

from ..source import BackendError


VARIABLE = "SPACEVLLM_VIDEO_THREADS"
# More than two gain little on top of dataloader workers, and each holds frames in memory.
MOST = 2


def decode_threads() -> int:
    """Threads for one decoder: what the environment says, or this worker's share of the processors, at most `MOST`.

    Codecs take a thread per processor if not told otherwise, in each dataloader worker of each rank.

    Raises:
        BackendError: `SPACEVLLM_VIDEO_THREADS` is not a positive number.
    """
    if given := os.environ.get(VARIABLE):
        if not given.isdecimal() or int(given) < 1:
            raise BackendError(f"{VARIABLE}={given}: not a number of threads")

        return int(given)

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) * _dataloader_workers()
    return min(MOST, max(1, usable // sharing))


def _dataloader_workers() -> int:
    """Workers of the dataloader that this process works for; 1 outside of one."""
    torch = sys.modules.get("torch")  # a process without torch is no worker
    worker = torch.utils.data.get_worker_info() if torch is not None else None
    return worker.num_workers if worker is not None else 1
