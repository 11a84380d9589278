"""The first thing to run where a GPU is lent for minutes: does everything work on it, how fast, and in how much memory?

`make gpu-check [WHEELS=DIR] [OUT=DIR] [DRY=1]`, at most nine minutes. Needs one CUDA GPU and a Python with torch; with
`--wheels` nothing else, not even a registry: docs/performance.md says which wheels. Steps follow one another, each in a
process of its own with a time of its own; one that fails or runs out of it is recorded, and the others go on. Results are
written after every step: gpu_check.md, gpu_check.json, and all that was printed in gpu_check.log.

`--dry` takes the same path on a CPU, with tiny shapes and a quickstart of two steps.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu import report
from gpu.environment import interpreter


HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHAPES = ("qwen3_vl_4b", "llava_onevision_7b", "qwen2_5_vl_7b")
WORK = Path("outputs/gpu_check")
BUDGET = 540  # seconds
LEAST_SHARE = 0.25  # of a step's own time must be left for it to begin
DRY_PATIENCE = 10  # times as long for everything: a CPU is in no hurry, and may be shared
OK, FAILED, OUT_OF_TIME, NOT_RUN, RUNNING = "ok", "failed", "out of time", "not run", "running"


@dataclass(frozen=True)
class Step:
    """One child process.

    Attributes:
        name: Its name in the report.
        command: What to run, in the repository's root.
        limit: Seconds that it may take, as long as the budget lasts.
        figures: JSON file that it writes, if any.
        needed: Whether no later step can do without it.
    """

    name: str
    command: list[str]
    limit: float
    figures: Path | None = None
    needed: bool = False


def plan(wheels: Path | None, work: Path, dry: bool) -> list[Step]:
    """The steps, the most telling first: the last one gets what the others leave."""
    steps, python = [], sys.executable
    if wheels is not None:
        folder = work / "environment"
        install = [python, "-m", "gpu.environment", "--wheels", str(wheels), "--folder", str(folder)]
        steps.append(Step("install", install, 90, needed=True))
        python = str(interpreter(folder))

    facts = work / "machine.json"
    steps.append(Step("machine", [python, "-m", "gpu.machine", "--out", str(facts)], 150, facts, needed=True))
    tests = [python, "-m", "pytest", "-m", "cuda", "-rfEs", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    steps.append(Step("tests", tests, 180))
    for shape in SHAPES:
        figures = work / f"{shape}.json"
        command = [python, "-m", "gpu.against_backbone", "--shape", shape, "--work", str(work / shape)]
        steps.append(Step(shape, [*command, "--out", str(figures)] + ["--dry"] * dry, 110, figures))

    quickstart = [python, "examples/quickstart/quickstart.py", "--out", str(work / "quickstart")]
    quickstart += ["--device", "cpu", "max_steps=2", "max_samples=64"] if dry else ["--device", "cuda"]
    quickstart += ["preprocessing_num_workers=8", "dataloader_num_workers=4"]  # the recipes are for two cores
    steps.append(Step("quickstart", quickstart, 300, work / "quickstart" / "report.json"))
    return steps


def environment(dry: bool) -> dict[str, str]:
    """What the children see."""
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    one_gpu = "" if dry else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    more = {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": one_gpu, "GPU_CHECK_DRY": str(int(dry))}
    return {**os.environ, **more, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def run(step: Step, limit: float, log: Path, env: dict[str, str]) -> dict[str, Any]:
    """Run a step and all that it starts, and end all of it when its time is over."""
    if step.figures is not None:
        step.figures.unlink(missing_ok=True)

    with open(log, "a", encoding="utf-8") as output:
        output.write(f"\n$ {' '.join(step.command)}\n")
        output.flush()
        begin, start = output.tell(), time.monotonic()
        # A group, so that it can be ended whole, but no session: whoever ends this script ends them too.
        child = subprocess.Popen(step.command, stdout=output, stderr=output, cwd=ROOT, env=env, process_group=0)
        try:
            outcome = OK if child.wait(timeout=limit) == 0 else FAILED
        except subprocess.TimeoutExpired:
            outcome = OUT_OF_TIME
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    figures = None
    if step.figures is not None and step.figures.is_file():
        figures = json.loads(step.figures.read_text(encoding="utf-8"))

    seconds = round(time.monotonic() - start, 1)
    return {"outcome": outcome, "seconds": seconds, "last_line": last_line(log, begin), "figures": figures}


def last_line(log: Path, begin: int) -> str:
    """The last thing that was printed behind a place in the log; errors come last."""
    with open(log, "rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").splitlines()]

    return next((line for line in reversed(lines) if line), "")[-300:]


def check(steps: list[Step], out: Path, budget: float, dry: bool) -> bool:
    """Run the steps and write what is known after each; whether all went well."""
    out.mkdir(parents=True, exist_ok=True)
    log, env, start = out / report.LOG_NAME, environment(dry), time.monotonic()
    log.write_text("", encoding="utf-8")
    blank = {"seconds": None, "last_line": "", "figures": None}
    results = [{"name": step.name, "limit": step.limit, "outcome": NOT_RUN, **blank} for step in steps]
    for step, result in zip(steps, results):
        left = budget - (time.monotonic() - start)
        if left < step.limit * LEAST_SHARE:
            result["last_line"] = f"{max(left, 0):.0f} s were left"
            continue

        result["outcome"] = RUNNING
        report.write(out, {"dry": dry, "steps": results})
        print(f"{step.name} …", end=" ", flush=True)
        result |= run(step, min(step.limit, left), log, env)
        print(f"{result['outcome']}, {result['seconds']} s: {result['last_line']}", flush=True)
        report.write(out, {"dry": dry, "steps": results})
        if step.needed and result["outcome"] != OK:
            break

    report.write(out, {"dry": dry, "steps": results})
    return all(result["outcome"] == OK for result in results)


def main() -> None:
    """Run all steps; exit code 1 if any of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="install these beside this Python's torch; else use it as it is")
    parser.add_argument("--out", type=Path, default=WORK, help="where the results go (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=WORK, help="where all else goes (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all steps (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="the same path on a CPU")
    args = parser.parse_args()
    patience = DRY_PATIENCE if args.dry else 1
    wheels, out, work = (path.resolve() if path else None for path in (args.wheels, args.out, args.work))
    work.mkdir(parents=True, exist_ok=True)
    steps = plan(wheels, work, args.dry)
    well = check([replace(step, limit=patience * step.limit) for step in steps], out, patience * args.budget, args.dry)
    print(f"{out / report.PAGE_NAME}\n\n{(out / report.PAGE_NAME).read_text(encoding='utf-8')}")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
