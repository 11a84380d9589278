"""Memory of `do_eval` over sets of two sizes, with grounding metrics and without: what a row more costs.

`python benchmarks/evaluation_memory.py` writes a few synthetic videos of 64 frames and a tiny Qwen3-VL, evaluates 200 and
2,000 rows of them in a process each, and prints the processes' peaks.
"""

import json
import multiprocessing
import resource
import tempfile
from pathlib import Path


SIZES = (200, 2000)
FRAMES = 64


def write_rows(folder: Path, count: int) -> None:
    """A set of `count` rows, the same few again and again."""
    rows = (folder / "annotations.jsonl").read_text().splitlines()
    lines = [json.dumps({**json.loads(rows[i % len(rows)]), "id": str(i)}) + "\n" for i in range(count)]
    (folder / f"rows_{count}.jsonl").write_text("".join(lines))


def evaluate(folder: Path, count: int, metrics: bool, peak: "multiprocessing.Queue[int]") -> None:
    """One evaluation, in a process of its own."""
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
            "video_maxlen": FRAMES,
            "per_device_eval_batch_size": 16,
            "grounding_metrics": metrics,
            "report_to": "none",
            "use_cpu": True,
        }
    )
    peak.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    """Measure and print."""
    from spacevllm_plugin.data.synthetic import SynthConfig, write_set
    from spacevllm_plugin.modeling.tiny import make_tiny

    context = multiprocessing.get_context("spawn")
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny("qwen3_vl", folder / "model")
        write_set(folder, SynthConfig(num_videos=10, size=64, num_frames=FRAMES))
        info = {f"rows_{count}": {"file_name": f"rows_{count}.jsonl", "formatting": "spacevllm"} for count in SIZES}
        (folder / "dataset_info.json").write_text(json.dumps(info))
        for metrics in (False, True):
            peaks = []
            for count in SIZES:
                write_rows(folder, count)
                peak = context.Queue()
                process = context.Process(target=evaluate, args=(folder, count, metrics, peak))
                process.start()
                peaks.append(peak.get())
                process.join()

            growth = (peaks[1] - peaks[0]) / (SIZES[1] - SIZES[0])
            shown = ", ".join(f"{kib / 1024:.0f} MiB at {count} rows" for kib, count in zip(peaks, SIZES))
            lines.append(f"grounding_metrics {str(metrics).lower():5}  {shown}: {growth:.0f} KiB a row")

    print("\n".join(lines))


if __name__ == "__main__":
    main()
