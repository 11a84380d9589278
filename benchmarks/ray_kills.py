"""Ray against one process, to the byte, while actors and the driver are killed.

`python benchmarks/ray_kills.py [--rows 2000] [--workers 2] [--kills 3]` writes a synthetic set and a tiny model, predicts with
one process, with Ray, with Ray while `--kills` actors get a SIGKILL at random times, and with Ray whose driver is killed once
and started again; then the same with `unistg refine`. It prints seconds and whether the files are the same.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from ray_parts import cluster, kill_a_worker, lines_in, start, wait_until, workers  # noqa: E402
from unistg_parts import annotated, frame, write_lines  # noqa: E402


FRAMES = 60


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, cluster(args.workers) as nodes:
        shared = ["--ray", nodes.address, "--ray-workers", args.workers]
        for name, command, done in (predict(Path(folder), args.rows), refine(Path(folder), args.rows)):
            trial = Trial(Path(folder) / name, command, done, args, nodes)
            whole = trial("one process", [])
            for what, kill in (
                ("", None),
                (f", {args.kills} actors killed", trial.kill_actors),
                (", driver killed", trial.kill_driver),
            ):
                same = trial(f"Ray, {args.workers} actors{what}", shared, kill) == whole
                print(f"{name}: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)


def predict(folder: Path, rows: int) -> tuple:
    """Data, a model, and the command that grounds them."""
    from spacevllm_plugin.backbones.tiny import make_tiny
    from spacevllm_plugin.data.synthetic import SynthConfig, write_set

    # Three shapes a video: as many rows of each of three tasks, and a question.
    write_set(folder / "data", SynthConfig(num_videos=rows // 10, seed=1, tasks=("stvg", "vtg", "rec", "qa")))
    make_tiny("qwen3_vl", folder / "model")
    command = ["predict", "--model", folder / "model", "--data", folder / "data" / "annotations.jsonl"]
    command += ["--max-new-tokens", 4, "--arg", "infer_dtype=float32", "--arg", "video_maxlen=6"]
    return "predict", command, "shards"


def refine(folder: Path, rows: int) -> tuple:
    """The rows of a stage, and the command that processes them."""
    frames = [frame(n, (0, 0.5, 10, 10, 20, 20), (1, 0.4, 30, 30, 40, 40), subject=0) for n in range(FRAMES)]
    some = (annotated(str(i), frames[: FRAMES if i % 3 else 40]) for i in range(rows))
    data = write_lines(folder / "stage.jsonl", list(some))
    return "refine", ["unistg", "refine", "--data", data], "partial"


class Trial:
    """Runs one command in several ways."""

    def __init__(self, folder: Path, command: list, growing: str, args: argparse.Namespace, nodes) -> None:
        self.folder, self.command, self.growing, self.rows = folder, command, growing, args.rows
        self.kills, self.nodes, self.rng = args.kills, nodes, random.Random(args.seed)
        folder.mkdir()

    def __call__(self, name: str, more: list, kill=None) -> dict[str, bytes]:
        """What a run leaves, by suffix."""
        out = self.folder / f"{name.replace(' ', '_').replace(',', '')}.jsonl"
        command = [*self.command, "--out", out, *more]
        began = time.time()
        with open(out.with_suffix(".log"), "w") as log:
            driver = start(*command, stdout=log, stderr=log)
            if kill is not None:
                driver = kill(driver, out, lambda: start(*command, stdout=log, stderr=log))

            code = driver.wait()

        seconds = time.time() - began
        print(
            f"{self.folder.name}: {name}: exit {code}, {seconds:.1f} s, {self.rows / seconds:.1f} rows/s", flush=True
        )
        left = sorted(file for file in self.folder.glob(f"{out.name}*"))
        return {file.name.removeprefix(out.name): file.read_bytes() for file in left}

    def kill_actors(self, driver, out: Path, again):
        """SIGKILL to actors, one after the other, when the work is at random points."""
        growing = out.with_name(f"{out.name}.{self.growing}")
        for share in sorted(self.rng.uniform(0.05, 0.9) for _ in range(self.kills)):
            wait_until(lambda: lines_in(growing) >= share * self.rows and workers(self.nodes), driver)
            kill_a_worker(self.nodes, self.rng)
            print(f"  actor killed at {lines_in(growing)} rows", flush=True)

        return driver

    def kill_driver(self, driver, out: Path, again):
        """SIGKILL to the driver in the middle; the same command again."""
        growing = out.with_name(f"{out.name}.{self.growing}")
        wait_until(lambda: lines_in(growing) >= self.rng.uniform(0.2, 0.8) * self.rows, driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        print(f"  driver killed at {lines_in(growing)} rows", flush=True)
        return again()


if __name__ == "__main__":
    main()
