"""A Ray cluster for the tests and the benchmark, and the processes in it that are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest


CODE = "import sys; from spacevllm_plugin.cli.main import main; sys.exit(main())"
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1",
}
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

store = {"object_store_memory": 150 << 20}
head, *others = map(int, sys.argv[1:])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False, **store})
nodes = [cluster.add_node(num_cpus=cpus, **store) for cpus in others]
print("address", cluster.address, flush=True)
for _ in sys.stdin:  # a line: a node dies
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    print("gone", flush=True)

cluster.shutdown()
"""
# Commands one after the other; of a poisonous row each worker dies that gets it.
SESSION = """
import json, os, signal, sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.distributed.cluster import Cluster

def deadly(make, poison):
    work = make()

    def unless_poisoned(piece):
        if any(row.id == poison for row in piece.items):
            os.kill(os.getpid(), signal.SIGKILL)

        return work(piece)

    return unless_poisoned

crew = Cluster.crew
for line in sys.stdin:
    argv, poison = json.loads(line)
    Cluster.crew = crew if poison is None else lambda self, make, *more: crew(self, partial(deadly, make, poison), *more)
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(argv)

    print(json.dumps({"code": code, "said": said.getvalue()}), flush=True)
"""
PATIENCE = 600
STARTS = 3


class Nodes:
    """A running cluster.

    Attributes:
        address: For `--ray`.
        process: What all its processes hang on.
    """

    def __init__(self, cpus):
        # On a busy machine Ray may give up its own start.
        if not any(self._start(cpus) for _ in range(STARTS)):
            pytest.skip("no Ray cluster comes up on this machine")

    def _start(self, cpus):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, *map(str, cpus)],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._line("address ").removeprefix("address ").strip()
        return self.address

    def _line(self, beginning):
        return next((line for line in iter(self.process.stdout.readline, "") if line.startswith(beginning)), "")

    def lose_one(self):
        """The last node dies, with all that runs on it."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self._line("gone")


@contextmanager
def cluster(*cpus):
    """A cluster that outlives its drivers: nodes of so many CPUs each, on this machine."""
    nodes = Nodes(cpus)
    try:
        yield nodes
    finally:
        nodes.process.stdin.close()
        nodes.process.wait(60)


def start(*command, **options):
    """`spacevllm-cli` in a process of its own."""
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", CODE, *map(str, command)], env=environment, **options)


class Session:
    """One process that runs `spacevllm-cli` several times: Ray takes seconds to import."""

    def __init__(self):
        environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-c", SESSION], env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def __call__(self, *command, poison=None):
        """Exit code and all that a command says."""
        print(json.dumps([list(map(str, command)), poison]), file=self._process.stdin, flush=True)
        answer = json.loads(next(line for line in self._process.stdout if line.startswith('{"code"')))
        return answer["code"], answer["said"]

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)


def workers(nodes):
    """Actors of Ray Data."""
    found = []
    for process in psutil.Process(nodes.process.pid).children(recursive=True):
        try:
            if any("MapWorker" in part for part in process.cmdline()[:1]):
                found.append(process)
        except psutil.Error:
            continue

    return found


def wait_until(condition, driver=None):
    """Wait for something; a driver that ends before is told with its output."""
    deadline = time.time() + PATIENCE
    while not condition():
        assert driver is None or driver.poll() is None, "it was over before"
        assert time.time() < deadline, "it did not come about"
        time.sleep(0.05)


def kill_a_worker(nodes, rng=random):
    """SIGKILL to one of the actors."""
    rng.choice(workers(nodes)).send_signal(signal.SIGKILL)


def lines_in(folder: Path):
    """Whole lines in the shards of an output, or in one file."""
    files = folder.glob("*.jsonl") if folder.is_dir() else [folder] if folder.exists() else []
    return sum(file.read_bytes().count(b"\n") for file in files if not file.name.startswith("."))
