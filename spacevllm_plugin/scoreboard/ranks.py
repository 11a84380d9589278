"""One process or several (`torchrun`): who am I, and waiting for the others."""

import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import timedelta


# One rank may have much more to do than another; a rank that died is noticed by torchrun, not by this.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """The processes of a run.

    Attributes:
        rank: This one's number.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process converts, merges, scores and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.barrier()

    def leave(self) -> None:
        """Part from the others, at the end."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.destroy_process_group()


def join(environment: MutableMapping[str, str] = os.environ) -> Ranks:
    """Meet the other processes that torchrun started; alone without it.

    Each process is left with one GPU to see, so that a loader that spreads a model over all GPUs takes its own only.
    To be called before CUDA is used.
    """
    ranks = Ranks(int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1)))
    if ranks.world > 1:
        own_gpu(environment)

        import torch.distributed

        torch.distributed.init_process_group("gloo", timeout=PATIENCE)

    return ranks


def own_gpu(environment: MutableMapping[str, str]) -> None:
    """Narrow CUDA_VISIBLE_DEVICES to the GPU of this local rank."""
    local = int(environment.get("LOCAL_RANK", 0))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        environment["CUDA_VISIBLE_DEVICES"] = str(local)
    elif devices := [device for device in visible.split(",") if device.strip()]:
        environment["CUDA_VISIBLE_DEVICES"] = devices[local % len(devices)]
