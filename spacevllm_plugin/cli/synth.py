"""`spacevllm-cli synth`: write a synthetic grounding data set."""

import argparse
from pathlib import Path

from ..data.schema import TASKS
from ..data.synthetic import SynthConfig, write_set
from .errors import UsageError
from .outputs import check_outputs


EXAMPLE = "spacevllm-cli synth --out data/synth --num-videos 3000 --seed 0 --split train --report"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--num-videos", type=int, default=100, help="videos to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same set (default: %(default)s)")
    parser.add_argument(
        "--split",
        choices=("train", "heldout"),
        default="train",
        help="heldout: every target is a pair of colour and form that train never shows (default: %(default)s)",
    )
    parser.add_argument("--size", type=int, default=48, help="width and height in pixels (default: %(default)s)")
    parser.add_argument("--num-frames", type=int, default=12, help="frames of each video (default: %(default)s)")
    parser.add_argument("--fps", type=float, default=2.0, help="frames per second (default: %(default)s)")
    parser.add_argument("--shift", action="store_true", help="textured backgrounds and one more colour")
    parser.add_argument("--background", metavar="VIDEO", help="put frames of this video behind the shapes")
    parser.add_argument(
        "--tasks", default="stvg", help=f"kinds of rows, separated by commas: {','.join(TASKS)} (default: %(default)s)"
    )
    parser.add_argument("--report", action="store_true", help="print the scores of the best constant answer (chance)")


def run(args: argparse.Namespace) -> None:
    """Write the set."""
    wanted = args.tasks.split(",")
    tasks = tuple(task for task in TASKS if task in wanted)
    if unknown := sorted(set(wanted) - set(TASKS)):
        raise UsageError(f"unknown task {unknown[0]!r}; choose from {', '.join(TASKS)}")

    if args.report and "stvg" not in tasks:
        raise UsageError("--report scores stvg rows; add stvg to --tasks")

    check_outputs(folders={"--out": args.out})
    try:
        config = SynthConfig(
            num_videos=args.num_videos,
            seed=args.seed,
            split=args.split,
            size=args.size,
            num_frames=args.num_frames,
            fps=args.fps,
            shift=args.shift,
            background=args.background,
            tasks=tasks,
        )
    except ValueError as err:
        raise UsageError(str(err)) from None

    rows = write_set(args.out, config)
    print(f"{config.num_videos} videos, {len(rows)} rows: {args.out / 'annotations.jsonl'}")
    if args.report:
        from ..evaluation import constant_baseline

        scores = constant_baseline(rows)
        figures = ", ".join(f"{name} {scores[name]:.3f}" for name in ("m_tIoU", "m_sIoU", "m_vIoU"))
        print(f"chance, the best constant answer: {figures}")
