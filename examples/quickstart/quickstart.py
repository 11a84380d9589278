"""The quickstart: data, full training, LoRA, merge, prediction, scores and pictures, all by the commands users have.

`make quickstart` installs the package and runs this. Everything lies under outputs/quickstart/ afterwards.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.cli.main import main as spacevllm_cli


HERE = Path(__file__).parent


@dataclass(frozen=True)
class Size:
    """How much of everything: videos of each set, and what the two training runs get beside their recipes."""

    train: int
    shift: int
    heldout: int
    full: tuple[str, ...] = ()
    lora: tuple[str, ...] = ()


WHOLE = Size(3000, 600, 150)
# The same path in three minutes. Where a shape is takes a few dozen steps to learn, when it is takes hundreds.
QUICK = Size(
    train=320,
    shift=60,
    heldout=30,
    full=("max_steps=50", "warmup_steps=10", "logging_steps=10"),
    lora=("max_steps=10", "max_samples=100", "logging_steps=5"),
)
HEADLINE = ("m_tIoU", "m_sIoU", "m_vIoU")


# What `llamafactory-cli train` starts with TWO_RANKS; bf16, in which Muon computes, takes a CPU without its units hours.
MUON_ON_CPU = ("torchrun", "--standalone", "--nproc-per-node", "2", str(HERE / "fp32_muon.py"))
# On two cores, two processes of one thread train a model this small faster than one process of two threads.
TWO_RANKS = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
# One GPU takes the rows of both ranks by itself.
ONE_GPU = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}


def run(*command: str, **environment: str) -> float:
    """Run LLaMA-Factory's command line; returns the seconds it took."""
    words = [f"{name}={value}" for name, value in environment.items()] + list(command)
    print("\n$ " + " ".join(words), flush=True)
    start = time.time()
    # LLaMA-Factory looks for `torchrun` on the path, where a virtual environment need not be.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, check=True, env={**os.environ, "PATH": path, **environment})
    return time.time() - start


def spacevllm(*arguments: str) -> None:
    """Run one of our own commands, in this process: it has imported everything already."""
    print("\n$ spacevllm-cli " + " ".join(arguments), flush=True)
    code = spacevllm_cli([*arguments])
    if code != 0:
        sys.exit(code)


def write_data(out: Path, seed: int, size: Size) -> None:
    """The four sets and one dataset_info.json that names them."""
    info = {}
    for name, videos, split, shift in (
        ("synth_train", size.train, "train", False),
        ("synth_heldout", size.heldout, "heldout", False),
        ("synth_shift_train", size.shift, "train", True),
        ("synth_shift_heldout", size.heldout, "heldout", True),
    ):
        options = ["--num-videos", str(videos), "--seed", str(seed), "--split", split] + ["--shift"] * shift
        spacevllm("synth", "--out", str(out / name), *options)
        info[name] = {"file_name": f"{name}/annotations.jsonl", "formatting": "spacevllm"}

    (out / "dataset_info.json").write_text(json.dumps(info, indent=2))


def score(model: Path, data: Path, name: str, predictions: Path) -> dict[str, float]:
    """Predict a set and score it."""
    rows, report = data / name / "annotations.jsonl", predictions.with_suffix(".scores.json")
    predictions.unlink(missing_ok=True)
    spacevllm("predict", "--model", str(model), "--data", str(rows), "--out", str(predictions), "--batch-size", "32")
    spacevllm("evaluate", "stvg", "--gt", str(rows), "--pred", str(predictions), "--out", str(report))
    return json.loads(report.read_text())["groups"]["all"]


def chance_level(data: Path, name: str) -> dict[str, float]:
    """Scores of the best constant answer."""
    from spacevllm_plugin.data.schema import read_rows
    from spacevllm_plugin.evaluation import constant_baseline

    baseline = constant_baseline(list(read_rows(data / name / "annotations.jsonl")))
    return {metric: baseline[metric] for metric in ("n", *HEADLINE, "vIoU@0.3", "vIoU@0.5")}


def main() -> None:
    """Run all steps and write report.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", choices=registry.names(), default="qwen3_vl")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="less of everything; fails if it does not beat chance")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    parser.add_argument("--out", type=Path, default=Path("outputs/quickstart"))
    parser.add_argument(
        "--started", type=float, default=time.time(), help="when the installation began (epoch seconds)"
    )
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE for both training runs")
    args = parser.parse_args()
    out, data, spec = args.out, args.out / "data", registry.get(args.backbone)
    size = QUICK if args.quick else WHOLE
    more_steps = () if args.quick else spec.quickstart
    shutil.rmtree(out, ignore_errors=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    write_data(data, args.seed, size)
    spacevllm("make-tiny", args.backbone, "--out", str(out / "base"), "--seed", str(args.seed))
    common = [f"template={spec.template}"]
    training = [
        *common,
        f"dataset_dir={data}",
        f"frame_cache_dir={out / 'frames'}",
        f"seed={args.seed}",
        *args.overrides,
    ]
    full, adapter, merged = out / "full", out / "adapter", out / "merged"
    on_gpu = args.device == "cuda"
    ranks = ONE_GPU if on_gpu else TWO_RANKS
    train_seconds = run(
        *(("llamafactory-cli", "train") if on_gpu else MUON_ON_CPU),
        str(HERE / "train_full.yaml"),
        *(f"model_name_or_path={out / 'base'}", f"output_dir={full}", *size.full, *more_steps),
        *(*["per_device_train_batch_size=16"] * on_gpu, *training),
        **ranks,
    )
    before = {
        "heldout": score(full, data, "synth_heldout", out / "before_heldout.jsonl"),
        "shifted": score(full, data, "synth_shift_heldout", out / "before_shifted.jsonl"),
    }
    lora_seconds = run(
        *("llamafactory-cli", "train", str(HERE / "train_lora.yaml")),
        *(f"model_name_or_path={full}", f"output_dir={adapter}", *size.lora),
        *(*["per_device_train_batch_size=8"] * on_gpu, *training),
        **ranks,
    )
    run(
        *("llamafactory-cli", "export", str(HERE / "merge.yaml"), f"model_name_or_path={full}"),
        *(f"adapter_name_or_path={adapter}", f"export_dir={merged}", *common),
    )
    after = {
        "heldout": score(merged, data, "synth_heldout", out / "predictions.jsonl"),
        "shifted": score(merged, data, "synth_shift_heldout", out / "predictions_shifted.jsonl"),
    }
    chance = chance_level(data, "synth_heldout")
    for name, predictions in (
        ("synth_heldout", "predictions.jsonl"),
        ("synth_shift_heldout", "predictions_shifted.jsonl"),
    ):
        rows = str(data / name / "annotations.jsonl")
        spacevllm(
            *("render", "--data", rows, "--media-dir", str(data / name), "--pred", str(out / predictions)),
            *("--limit", "3", "--out", str(out / "pictures" / name), "--video"),
        )

    report = {
        "backbone": args.backbone,
        "seed": args.seed,
        "heldout": after["heldout"],
        "heldout_before_lora": before["heldout"],
        "chance": chance,
        "shifted": {"before": before["shifted"], "after": after["shifted"]},
        "train_seconds": round(train_seconds, 1),
        "lora_seconds": round(lora_seconds, 1),
        "total_seconds": round(time.time() - args.started, 1),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2))
    print_report(report, out)
    if args.quick and not report["heldout"]["m_sIoU"] > 1.5 * chance["m_sIoU"]:
        sys.exit("The boxes are hardly better than chance: training, merging or prediction is broken.")


def print_report(report: dict, out: Path) -> None:
    """The short table at the end."""
    lines = {
        "held-out videos, best constant answer": report["chance"],
        "held-out videos, after full training": report["heldout_before_lora"],
        "held-out videos, after LoRA and merge": report["heldout"],
        "shifted videos, before LoRA": report["shifted"]["before"],
        "shifted videos, after LoRA and merge": report["shifted"]["after"],
    }
    print(f"\n{report['backbone']}, seed {report['seed']}, protocol native")
    print(f"{'':40}" + "".join(f"{metric:>9}" for metric in HEADLINE))
    for label, scores in lines.items():
        print(f"{label:40}" + "".join(f"{scores[metric]:9.3f}" for metric in HEADLINE))

    print(
        f"\nfull training {report['train_seconds']:.0f} s, LoRA {report['lora_seconds']:.0f} s, "
        f"all in all {report['total_seconds']:.0f} s"
    )
    print(f"report, adapter/, merged/, predictions.jsonl and pictures/ lie in {out}/")


if __name__ == "__main__":
    main()
