"""Ray: the only file that imports it."""

import logging
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from .pieces import Piece
from .rounds import Answer, Stopped
from .worker import Setting, Work, Worker, one_line


LOCAL = "local"
MISSING = "--ray needs Ray, which is not installed: pip install spacevllm_plugin[ray]"
# Earlier ones lose track of a worker that is started again: they hang, or count pieces as dead that nothing is wrong with.
OLDEST = "2.55.1"
# Of a local cluster: windows of the input and their answers; Ray alone would take a third of the memory.
STORE_BYTES = 512 << 20
# Pieces of one round that may die before it counts as broken: poisonous ones are rare, a model too large kills each time.
MOST_DEAD, MOST_DEAD_SHARE = 100, 0.1


class ClusterError(Exception):
    """There is no cluster to work with; one line."""


class Cluster:
    """A Ray cluster, for the time of a `with` block.

    Args:
        address: As `ray.init` takes it, for instance `auto` or `head:6379`; `LOCAL` starts one of this machine.
        workers: How many processes work; None: one for each GPU, or for each CPU where GPUs are not used or not there.
        verbose: Show Ray's logs and the workers' outputs.
        tell: Gets a line where there is nothing to do but wait.
    """

    def __init__(
        self,
        address: str = LOCAL,
        workers: int | None = None,
        verbose: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.address, self.workers, self.verbose, self._tell = address, workers, verbose, tell

    def __enter__(self) -> "Cluster":
        if not self.verbose:
            # Ray warns of actors that Ray Data itself makes in a way that Ray warns of.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

        try:
            import ray
            import ray.data
        except ImportError as err:
            raise ClusterError(MISSING if (err.name or "").partition(".")[0] == "ray" else f"Ray: {err}") from None

        if Version(ray.__version__) < Version(OLDEST):
            raise ClusterError(
                f"Ray {ray.__version__}: {OLDEST} or newer is needed, or a worker that dies is lost for good"
            )

        own: dict[str, Any] = {}
        if self.address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cpus = max(os.cpu_count() or 1, self.workers or 0)
            own = {"num_cpus": cpus, "object_store_memory": STORE_BYTES, "include_dashboard": False}

        level = logging.INFO if self.verbose else logging.ERROR
        try:
            ray.init(address=self.address, logging_level=level, log_to_driver=self.verbose, **own)
        except Exception as err:
            ray.shutdown()
            where = "no local cluster came up" if own else f"no cluster at {self.address}"
            raise ClusterError(f"Ray: {where}: {one_line(err)}") from None

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = self.verbose
        context.print_on_execution_start = self.verbose
        if not self.verbose:
            # A piece that died is told of in one line by us.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)

        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def crew(self, make: Callable[[], Work], use_gpus: bool = False) -> "RayCrew":
        """Workers of one kind.

        Args:
            make: Makes the work in each worker; pickled.
            use_gpus: A worker has a GPU of its own, if the cluster has any.

        Raises:
            ClusterError: It is too small for the number of workers wanted.
        """
        import ray

        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if use_gpus else 0
        most = gpus or int(resources.get("CPU", 0))
        kind = "GPU" if gpus else "CPU"
        if (wanted := self.workers or 1) > most:
            raise ClusterError(f"Ray: {wanted} workers wanted, the cluster has {most} {kind}s")

        if self.address != LOCAL and ray.available_resources().get(kind, 0) < 1:
            self._tell(f"Ray: none of the cluster's {most} {kind}s is free, the work begins when one is")

        return RayCrew(make, self.workers or most, 1 if gpus else 0)


@dataclass
class RayCrew:
    """Actors of Ray Data; see `rounds.Crew`.

    Attributes:
        make: Makes the work in each.
        size: How many.
        gpus: Of each.
    """

    make: Callable[[], Work]
    size: int
    gpus: int

    def __call__(self, pieces: list[Piece]) -> Iterator[tuple[str, Answer]]:
        """One block a piece, so that a process that dies takes one with it; Ray starts another process in its place."""
        import ray

        context = ray.data.DataContext.get_current()
        context.max_errored_blocks = max(MOST_DEAD, int(len(pieces) * MOST_DEAD_SHARE))
        rows = ray.data.from_items(
            [{"piece": pickle.dumps(piece)} for piece in pieces], override_num_blocks=len(pieces)
        )
        with warnings.catch_warnings():
            # Ray 2.64 will take the last two otherwise: see the upper bound of the extra in setup.py.
            warnings.simplefilter("ignore", DeprecationWarning)
            answers = rows.map(
                Worker,
                fn_constructor_args=(self.make, Setting.here()),
                # One piece in flight: with more of them, those that only waited would count as tried.
                compute=ray.data.ActorPoolStrategy(size=min(self.size, len(pieces)), max_tasks_in_flight_per_actor=1),
                **({"num_gpus": self.gpus} if self.gpus else {"num_cpus": 1}),
                max_restarts=-1,
                max_task_retries=0,  # counted in `rounds`: Ray would try for ever
            )

        try:
            for row in answers.iter_rows():
                yield pickle.loads(row["answer"])
        except ray.exceptions.RayError as err:
            raise Stopped(f"Ray: {one_line(err)}") from None
