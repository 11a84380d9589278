"""Memory of `do_eval` with grounding metrics over sets of two sizes: what a row more costs.

`python benchmarks/evaluation_memory.py` writes a few synthetic videos and a tiny Qwen3-VL, evaluates 200 and
2,000 rows of them in a process each, and prints the processes' peaks.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
from pathlib import Path


SIZES = (200, 2000)


def write_rows(folder: Path, count: int) -> None:
    """A set of `count` rows, the same few again and again."""
    rows = (folder / "annotations.jsonl").read_text().splitlines()
    lines = [json.dumps({**json.loads(rows[i % len(rows)]), "id": str(i)}) + "\n" for i in range(count)]
    (folder / f"rows_{count}.jsonl").write_text("".join(lines))


def evaluate(folder: Path, count: int, peak: "multiprocessing.Queue[int]") -> None:
    """One evaluation, in a process of its own."""
    sys.stdout = sys.stderr  # LLaMA-Factory prints a row
    import spacevllm_plugin

    spacevllm_plugin.register()
    from llamafactory.train.tuner import run_exp

    run_exp(
        {
            "model_name_or_path": str(folder / "model"),
            "template": "spacevllm_qwen3_vl",
            "stage": "sft",
            "do_eval": True,
            "eval_dataset": f"rows_{count}",
            "dataset_dir": str(folder),
            "output_dir": str(folder / "out"),
            "finetuning_type": "full",
            "cutoff_len": 8192,
            "per_device_eval_batch_size": 16,
            "report_to": "none",
            "use_cpu": True,
        }
    )
    peak.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    """Measure and print."""
    from spacevllm_plugin.backbones.tiny import make_tiny
    from spacevllm_plugin.data.synthetic import SynthConfig, write_set

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny("qwen3_vl", folder / "model")
        write_set(folder, SynthConfig(num_videos=10))
        info = {f"rows_{count}": {"file_name": f"rows_{count}.jsonl", "formatting": "spacevllm"} for count in SIZES}
        (folder / "dataset_info.json").write_text(json.dumps(info))
        peaks = []
        for count in SIZES:
            write_rows(folder, count)
            peak = context.Queue()
            process = context.Process(target=evaluate, args=(folder, count, peak))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"the evaluation of {count} rows failed")

            peaks.append(peak.get())

    growth = (peaks[1] - peaks[0]) / (SIZES[1] - SIZES[0])
    shown = ", ".join(f"{kib / 1024:.0f} MiB after {count} rows" for kib, count in zip(peaks, SIZES))
    print(f"{shown}: {growth:.1f} KiB a row")


if __name__ == "__main__":
    main()
