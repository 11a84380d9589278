"""The first thing to run where a GPU is lent for minutes: does everything work on it, how fast, and in how much memory?

`make gpu-check [WHEELS=DIR] [OUT=DIR] [DRY=1]`, at most nine minutes. Needs one CUDA GPU and a Python with torch; with
`--wheels` nothing else, not even a registry: docs/performance.md says which wheels. Steps follow one another, each in a
process of its own with a time of its own; one that fails or runs out of it is recorded, and the others go on. Results are
written after every step: gpu_check.md, gpu_check.json, and all that was printed in gpu_check.log.

`--dry` takes the same path on a CPU, with tiny shapes and a quickstart of two steps.
"""

import argparse
from pathlib import Path

from gpu.steps import Step, check, installed, run_plan


__all__ = ["BUDGET", "SHAPES", "Step", "check", "plan"]

SHAPES = ("qwen3_vl_4b", "llava_onevision_7b", "qwen2_5_vl_7b")
BUDGET = 540  # seconds


def plan(wheels: Path | None, work: Path, dry: bool) -> list[Step]:
    """The steps, the most telling first: the last one gets what the others leave."""
    steps, python = installed(wheels, work)
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


def main() -> None:
    """Run all steps; exit code 1 if any of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run_plan(parser, lambda args: plan(args.wheels, args.work, args.dry), BUDGET, "GPU check")


if __name__ == "__main__":
    main()
