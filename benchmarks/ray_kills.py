"""Ray against one process, to the byte, while actors and the driver are killed.

`python benchmarks/ray_kills.py [--rows 2000] [--workers 2] [--kills 3] [COMMAND …]` writes a synthetic set, tiny models and the
rows of each `unistg` stage. Each command (all of them: `predict`, `analyze`, `annotate`, `refine`, `filter`) runs with one
process, with Ray, with Ray while `--kills` actors get a SIGKILL at random times, and with Ray whose driver is killed once and
started again. It prints seconds and whether the files are the same, and fails if some are not.

The tiny models are of the real classes; `analyze` asks a server process of OpenAI's protocol that needs no model.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from ray_parts import cluster, kill_a_worker, lines_in, start, wait_until, workers  # noqa: E402
from unistg_parts import annotated, frame, refined, server, vtg, write_lines  # noqa: E402


# Enough for a row to cost some milliseconds: actors can only be killed while they work.
REFINED_FRAMES, FILTERED_FRAMES = 200, 600
ANSWER_SECONDS, QUESTIONS_AT_ONCE = 0.15, 4
PHRASES = (["red circle", "man"], ["blue square"], ["green triangle", "door", "ball"])


@dataclass(frozen=True)
class Case:
    """A command that can be shared.

    Attributes:
        command: Without its output.
        growing: Suffix of what lies beside the output while it runs.
    """

    command: list
    growing: str = "partial"


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"{', '.join(CASES)} (default: all)")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := set(args.commands) - CASES.keys():
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(CASES)}")

    different = []
    with tempfile.TemporaryDirectory() as folder, cluster(args.workers) as nodes:
        shared = ["--ray", nodes.address, "--ray-workers", args.workers]
        for name in args.commands or CASES:
            with ExitStack() as stack:
                trial = Trial(Path(folder) / name, args, nodes)
                trial.case = CASES[name](trial.folder, args.rows, stack)
                whole = trial("one process", [])
                for what, kill in (
                    ("", None),
                    (f", {args.kills} actors killed", trial.kill_actors),
                    (", driver killed", trial.kill_driver),
                ):
                    same = trial(f"Ray, {args.workers} actors{what}", shared, kill) == whole
                    print(f"{name}: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)
                    different += [] if same else [f"{name}{what}"]

    if different:
        sys.exit(f"other bytes: {'; '.join(different)}")


def predict(folder: Path, rows: int, stack: ExitStack) -> Case:
    """Rows of four tasks, ten a video, and a model."""
    from spacevllm_plugin.backbones.tiny import make_tiny
    from spacevllm_plugin.data.synthetic import SynthConfig, write_set

    # Three shapes a video: as many rows of each of three tasks, and a question.
    write_set(folder / "data", SynthConfig(num_videos=rows // 10, seed=1, tasks=("stvg", "vtg", "rec", "qa")))
    make_tiny("qwen3_vl", folder / "model")
    command = ["predict", "--model", folder / "model", "--data", folder / "data" / "annotations.jsonl"]
    command += ["--max-new-tokens", 4, "--arg", "infer_dtype=float32", "--arg", "video_maxlen=6"]
    return Case(command, "shards")


def analyze(folder: Path, rows: int, stack: ExitStack) -> Case:
    """Captions, and a server that takes its time; of some it makes nothing, of some it fails at first."""
    words = {0: "nothing", 1: "malformed man"}
    some = (vtg(str(i), f"{words.get(i % 7, 'man')} {i} that runs") for i in range(rows))
    data = write_lines(folder / "stage.jsonl", some)
    model = stack.enter_context(server("--delay", str(ANSWER_SECONDS)))
    return stage("analyze", data, "--base-url", model.url, "--model", "m", "--concurrency", QUESTIONS_AT_ONCE)


def annotate(folder: Path, rows: int, stack: ExitStack) -> Case:
    """Spans of synthetic videos, ten a video, and a tiny detector."""
    from tiny_detector import write_tiny_detector

    from spacevllm_plugin.data.synthetic import SynthConfig, write_set
    from spacevllm_plugin.unistg.rows import Analyzed

    config = SynthConfig(num_videos=rows // 10, seed=1)
    write_set(folder / "data", config)
    videos = sorted((folder / "data" / "videos").iterdir())
    row = partial(vtg, fps=config.fps, num_frames=config.num_frames, size=(config.size, config.size))
    some = (
        Analyzed(
            id=str(i),
            source=row(str(i), video=f"videos/{videos[i // 10].name}", span=(i % 6, i % 6 + 6)),
            objects=PHRASES[i % len(PHRASES)],
        )
        for i in range(rows)
    )
    data = write_lines(folder / "stage.jsonl", some)
    detector = write_tiny_detector(folder / "detector")
    more = ("--media-dir", folder / "data", "--detector", detector, "--device", "cpu", "--stride", 2)
    return stage("annotate", data, *more)


def refine(folder: Path, rows: int, stack: ExitStack) -> Case:
    """Boxed frames; every third row is too short."""
    return stage("refine", boxed(folder, rows, annotated, REFINED_FRAMES))


def filter_(folder: Path, rows: int, stack: ExitStack) -> Case:
    """Tubes; every third is crowded."""
    return stage("filter", boxed(folder, rows, refined, FILTERED_FRAMES), "--max-boxes", 2)


def boxed(folder: Path, rows: int, make: Callable, count: int) -> Path:
    """Rows with two boxes on each frame, every third with three and on few frames."""
    boxes = [(0, 0.5, 10, 10, 20, 20), (1, 0.4, 30, 30, 40, 40), (1, 0.4, 35, 30, 45, 40)]
    long = [frame(n, *boxes[:2], subject=0) for n in range(count)]
    short = [frame(n, *boxes, subject=0) for n in range(40)]
    some = (make(str(i), long if i % 3 else short, num_frames=count) for i in range(rows))
    return write_lines(folder / "stage.jsonl", some)


def stage(name: str, data: Path, *more: object) -> Case:
    """A stage of the builder."""
    return Case(["unistg", name, "--data", data, *more])


CASES = {"predict": predict, "analyze": analyze, "annotate": annotate, "refine": refine, "filter": filter_}


class Trial:
    """Runs one command in several ways.

    Attributes:
        folder: Of its files.
        case: The command; set before it is called.
    """

    case: Case

    def __init__(self, folder: Path, args: argparse.Namespace, nodes) -> None:
        self.folder, self.rows, self.kills, self.nodes = folder, args.rows, args.kills, nodes
        self.rng = random.Random(args.seed)
        folder.mkdir()

    def __call__(self, name: str, more: list, kill=None) -> dict[str, bytes]:
        """What a run leaves, by suffix."""
        out = self.folder / f"{name.replace(' ', '_').replace(',', '')}.jsonl"
        command = [*self.case.command, "--out", out, *more]
        began = time.time()
        with open(out.with_suffix(".log"), "w") as log:
            driver = start(*command, stdout=log, stderr=log)
            if kill is not None:
                driver = kill(driver, self.beside(out), lambda: start(*command, stdout=log, stderr=log))

            code = driver.wait()

        seconds = time.time() - began
        if code:
            sys.exit(f"{name}: exit {code}:\n{out.with_suffix('.log').read_text()[-2000:]}")

        print(f"{self.folder.name}: {name}: {seconds:.1f} s, {self.rows / seconds:.1f} rows/s", flush=True)
        left = sorted(file for file in self.folder.glob(f"{out.name}*"))
        return {file.name.removeprefix(out.name): file.read_bytes() for file in left}

    def beside(self, out: Path) -> Path:
        """What shows how far the work is."""
        return out.with_name(f"{out.name}.{self.case.growing}")

    def kill_actors(self, driver, growing: Path, again):
        """SIGKILL to actors, one after the other, when the work is at random points."""
        for share in sorted(self.rng.uniform(0.05, 0.7) for _ in range(self.kills)):
            wait_until(lambda: lines_in(growing) >= share * self.rows and workers(self.nodes), driver)
            kill_a_worker(self.nodes, self.rng)
            print(f"  actor killed at {lines_in(growing)} rows", flush=True)

        return driver

    def kill_driver(self, driver, growing: Path, again):
        """SIGKILL to the driver in the middle; the same command again."""
        share = self.rng.uniform(0.2, 0.7)
        wait_until(lambda: lines_in(growing) >= share * self.rows, driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        print(f"  driver killed at {lines_in(growing)} rows", flush=True)
        return again()


if __name__ == "__main__":
    main()
