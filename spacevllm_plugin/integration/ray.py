"""Hook on `train.tuner`: with `USE_RAY=1`, one of our runs reserves what its workers need and the cluster has.

LLaMA-Factory 0.9.5 reserves ten CPUs for each device of the cluster, however few workers were asked for, and waits for
ever where there are fewer, as on any machine without GPUs. It sends the workers to the head's address, where none of
them need be. Its issue 10348 has both; where its source is no longer what we know, it is left to itself.
"""

import argparse
from collections.abc import Iterable, Mapping
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from ..backbones import registry
from .compatibility import still_does


# LLaMA-Factory's number for each worker.
MOST_CPUS = 10
# Where worker processes import this package from, whatever lies in their working directory; the `.pth` file reads it.
PACKAGE_PATH = "SPACEVLLM_PACKAGE_PATH"

# By these Ray leaves the GPUs of a job's driver as they are. LLaMA-Factory copies the driver's environment, and a worker
# that finds them asks Ray for its GPU, even if it has none.
DRIVERS_OWN = ("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES")
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def template_of(args: dict[str, Any] | list[str]) -> str | None:
    """The template that a run names: a recipe's options by name, or a command line."""
    if isinstance(args, dict):
        return args.get("template")

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--template")
    return parser.parse_known_args(args)[0].template


def cpus_for_each(nodes: Iterable[Mapping[str, float]], device: str, workers: int) -> int:
    """CPUs for each worker: LLaMA-Factory's number, or the most with which all of them find room.

    Args:
        nodes: What each node has, by Ray's names.
        device: What a worker takes one of; `CPU` if it takes CPUs alone.
        workers: How many there are.

    Raises:
        ValueError: There is no room for so many.
    """
    nodes = list(nodes)
    for cpus in range(MOST_CPUS, 0, -1):
        if sum(int(min(node.get(device, 0), node.get("CPU", 0) // cpus)) for node in nodes) >= workers:
            return cpus

    kinds = dict.fromkeys((device, "CPU"))
    found = "; ".join(", ".join(f"{node.get(kind, 0):g} {kind}" for kind in kinds) for node in nodes)
    raise ValueError(
        f"Ray has no room for {workers} workers with a {' and a '.join(kinds)} each; its nodes have: {found}."
    )


class Placement:
    """What is asked of Ray for one run, by LLaMA-Factory's names.

    Attributes:
        workers: How many there are.
        device: Ray's name of what each takes one of.
        cpus: How many each takes.
        address: Of the node that the first worker is on, once that is settled.
    """

    def __init__(self, tuner: ModuleType, workers: int) -> None:
        """Nothing is asked yet.

        Args:
            tuner: LLaMA-Factory's module.
            workers: The run's `ray_num_workers`.
        """
        self.workers = workers
        self.device = self.cpus = self.address = None
        self._tuner = tuner
        self._stock_config = tuner.get_ray_remote_config_for_worker

    def get_ray_head_node_ip(self) -> str:
        """Where the first worker should be, if it can: beside the driver. Only the dashboard knows the head."""
        from ray.util import get_node_ip_address

        return get_node_ip_address()

    def get_placement_group(self, total_devices: int) -> tuple[Any, dict[str, int]]:
        """Reserve what the workers need, and no more.

        Args:
            total_devices: What this machine takes for the cluster's; one without GPUs takes CPUs for them.

        Raises:
            ValueError: The cluster has not so much.
        """
        from ray.util import placement_group

        nodes = [node["Resources"] for node in _alive()]
        self.device = self._tuner.get_device_name().upper()
        if self.device == "CPU" and any(node.get("GPU") for node in nodes):
            self.device = "GPU"  # the driver may well run on a head without any

        self.cpus = cpus_for_each(nodes, self.device, self.workers)
        bundle = {"CPU": self.cpus, self.device: self.cpus if self.device == "CPU" else 1}
        self._tuner.logger.info(f"Waiting for Ray to reserve {bundle} for each of {self.workers} workers.")
        return placement_group([bundle] * self.workers, strategy="PACK"), bundle

    def get_ray_remote_config_for_worker(
        self, placement_group: Any, bundle_idx: int, rank: int, env: dict[str, str], **others: Any
    ) -> dict[str, Any]:
        """Options of one worker, which all meet where the first one is. Arguments are LLaMA-Factory's."""
        if rank == 0:
            from ray.util import placement_group_table

            node = placement_group_table(placement_group)["bundles_to_node_id"][bundle_idx]
            self.address = next(other["NodeManagerAddress"] for other in _alive() if other["NodeID"] == node)
            self._tuner.logger.info(f"The workers meet at {self.address}.")

        env = {name: value for name, value in env.items() if IN_A_JOB not in env or name not in DRIVERS_OWN}
        others |= {"master_addr": self.address, "env": {**env, PACKAGE_PATH: str(Path(__file__).parents[2])}}
        config = self._stock_config(placement_group=placement_group, bundle_idx=bundle_idx, rank=rank, **others)
        config["num_cpus"] = self.cpus
        if self.device == "GPU":
            config["num_gpus"] = 1

        return config


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def install(module: ModuleType) -> None:
    """Wrap the function that trains on Ray."""
    if not still_does(module):
        return

    train = module._ray_training_function

    @wraps(train)
    def _ray_training_function(ray_args, config):
        if registry.of_template(template_of(config["args"])) is None:
            return train(ray_args, config)

        if find_spec("ray") is None:
            raise ImportError("USE_RAY=1 trains on Ray, which is not installed: pip install 'spacevllm_plugin[ray]'.")

        placement = Placement(module, ray_args.ray_num_workers)
        names = ("get_ray_head_node_ip", "get_placement_group", "get_ray_remote_config_for_worker")
        stock = {name: getattr(module, name) for name in names}
        vars(module).update({name: getattr(placement, name) for name in names})
        try:
            return train(ray_args, config)
        finally:
            vars(module).update(stock)

    module._ray_training_function = _ray_training_function
