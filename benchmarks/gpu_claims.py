"""The claims at the real size, where a GPU is lent for minutes: one script after the other, the most telling first.

`python benchmarks/gpu_claims.py --out DIR [--budget SECONDS] [--wheels DIR] [--only STEP …]`. As `gpu_check.py`, which says
what the machine needs: each script in a process of its own; what fails or runs out of its time is recorded, and what it had
written by then kept. gpu_claims.md has the tables, gpu_claims.json all figures, gpu_claims.log what was printed.

`--dry` takes the same path on a CPU, with tiny checkpoints.
"""

import argparse
from pathlib import Path

from gpu.shapes import SHAPES
from gpu.steps import Step, installed, run_plan


BUDGET = 540  # seconds
# Seconds that each may take, imports of a cold machine included, and what its script is told.
CLAIMS = {
    "questions": (150, "questions.py ground --sentences 8 32 --turns 3"),
    "sentences": (150, "sentences.py --sentences 8 --turns 2"),
    "training_step": (120, "training_step.py --turns 2"),
    "grounding": (120, "grounding.py --turns 2"),
    "frames": (200, "frames.py --counts 8 32 128 256 --turns 1"),
    "host_syncs": (100, "host_syncs.py"),
    "compiled_decoder": (100, "compiled_decoder.py"),
}
SIZES = {"compiled_decoder": "100m"}  # in fp32: others are measured at the real size
SHAPE_OF = {"host_syncs": "qwen3_vl_4b"}
# A dry run is told this behind the rest: it is there to see that all goes through.
DRY = dict.fromkeys(CLAIMS, "--dry --frames 8 --turns 1") | {"frames": "--dry --counts 8 10"}


def plan(wheels: Path | None, work: Path, out: Path, shape: str, only: list[str], dry: bool) -> list[Step]:
    """The steps, in order of value."""
    steps, python = installed(wheels, work)
    for name in only:
        limit, told = CLAIMS[name]
        script, *more = told.split()
        figures = out / f"{name}.json"
        size, own_shape = SIZES.get(name, "7b"), SHAPE_OF.get(name, shape)
        command = [python, f"benchmarks/{script}", *more, "--size", size, "--shape", own_shape, "--out", str(figures)]
        steps.append(Step(name, command + DRY[name].split() * dry, limit, figures))

    return steps


def main() -> None:
    """Run all steps; exit code 1 if any of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CLAIMS, default=list(CLAIMS), help="these, in this order")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2_5_vl_7b", help="default: %(default)s")
    run_plan(
        parser,
        lambda args: plan(args.wheels, args.work, args.out, args.shape, args.only, args.dry),
        BUDGET,
        "GPU claims",
    )


if __name__ == "__main__":
    main()
