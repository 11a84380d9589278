"""A Ray cluster for the tests and the benchmark, and the processes in it that are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil


CODE = "import sys; from spacevllm_plugin.cli.main import main; sys.exit(main())"
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
CLUSTER = """
import sys, ray
ray.init("local", num_cpus=int(sys.argv[1]), object_store_memory=150 << 20, include_dashboard=False, log_to_driver=False)
print("address", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
PATIENCE = 600


@contextmanager
def cluster(cpus=4):
    """A cluster that outlives the drivers: its address, and the process that it hangs on."""
    environment = {**os.environ, **ENVIRONMENT}
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(cpus)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = iter(process.stdout.readline, "")
        yield next(line.split()[1] for line in lines if line.startswith("address ")), process
    finally:
        process.stdin.close()
        process.wait(60)


def start(*command, **options):
    """`spacevllm-cli` in a process of its own."""
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", CODE, *map(str, command)], env=environment, **options)


def workers(root):
    """Actors of Ray Data below a process."""
    found = []
    for process in psutil.Process(root.pid).children(recursive=True):
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
        time.sleep(0.02)


def kill_a_worker(root, rng=random):
    """SIGKILL to one of the actors."""
    rng.choice(workers(root)).send_signal(signal.SIGKILL)


def lines_in(folder: Path):
    """Whole lines in the shards of an output, or in one file."""
    files = folder.glob("*.jsonl") if folder.is_dir() else [folder] if folder.exists() else []
    return sum(file.read_bytes().count(b"\n") for file in files if not file.name.startswith("."))
