"""Rows before a training run: `check` and tokenising, ours against LLaMA-Factory's own loader for its own template.

`python benchmarks/tokenise.py [--rows 10000] [--videos 1000] [--workers 2] [--out figures.json]` writes that many rows about
copies of some synthetic videos, in no order. Each side reads, converts and tokenises all of them in a process of its own, in
turn: LLaMA-Factory for `qwen3_vl_nothink`; ours for `spacevllm_qwen3_vl` without and with `media_index`, and again with the
index that is there then. `check` goes over the rows as well, and tokenising follows on its index. The table has rows per second
of the whole and of tokenising alone, how often a video was opened (counted in `av.open`, in all processes), and memory
without mapped files: the most, and that of the last fifth of tokenising over that of its second fifth.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from loaders import Watched, copies, recipe, watch, write_rows


ORIGINALS = 20


def tokenise(run: dict[str, Any]) -> dict[str, Any]:
    """What a training run does before its first step, and when."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer, loader
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, *_ = get_train_args(run)
    parts = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(parts["tokenizer"], data_args)
    preprocess, spans = loader._get_preprocessed_dataset, []

    def timed(dataset: Any, *args: Any, **kwargs: Any) -> Any:
        begin = time.time()
        found = preprocess(dataset, *args, **kwargs)
        if dataset is not None:
            spans.append((begin, time.time()))

        return found

    loader._get_preprocessed_dataset = timed
    begin = time.time()
    dataset = get_dataset(template, model_args, data_args, training_args, stage="sft", **parts)["train_dataset"]
    return {
        "rows": len(dataset),
        "whole": (begin, time.time()),
        "tokenising": spans[0],
        "tokens": len(dataset[0]["input_ids"]),
    }


def figures(runs: list[Watched], rows: int) -> dict[str, Any]:
    """Medians of the runs of a side, and every value behind them."""
    spans = {name: [run.answer[name] for run in runs] for name in ("whole", "tokenising")}
    rates = {name: [rows / (end - begin) for begin, end in own] for name, own in spans.items()}
    return {
        "rows_per_second": {name: statistics.median(own) for name, own in rates.items()},
        "all": rates,
        "videos_opened": [len(run.opened) for run in runs],
        "times_opened_at_most": max(max(run.opened.values(), default=0) for run in runs),
        "peak_mib": max(run.peak for run in runs),
        "growth": max(run.growth(*run.answer["tokenising"]) for run in runs),
    }


def check(data: Path, index: Path, workers: int, rows: int) -> dict[str, Any]:
    """`spacevllm-cli check` over the rows, which writes a media index."""
    report = data / "report.json"
    command = ["-m", "spacevllm_plugin.cli.main", "check", str(data / "ours.jsonl"), "--json", str(report)]
    begin = time.time()
    run = watch([*command, "--workers", str(workers), "--media-index", str(index)], data, plugin=True)
    end, found = time.time(), json.loads(report.read_text())
    assert found["good"] == rows, found
    return {
        "rows_per_second": {"whole": rows / (end - begin)},
        "videos_opened": [len(run.opened)],
        "times_opened_at_most": max(run.opened.values()),
        "peak_mib": run.peak,
        "growth": run.growth(begin, end),
    }


def line(name: str, found: dict[str, Any]) -> str:
    """One of the table."""
    rates = found["rows_per_second"]
    tokenising = f"{rates['tokenising']:12.0f}" if "tokenising" in rates else f"{'':12}"
    opened = f"{max(found['videos_opened'])} x {found['times_opened_at_most']}"
    return f"{name:24}{rates['whole']:10.0f}{tokenising}{opened:>14}{found['peak_mib']:10.0f}{found['growth']:10.2f}"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2, help="preprocessing_num_workers (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(tokenise(json.loads(args.run))))
        return

    from spacevllm_plugin.backbones.tiny import make_tiny
    from spacevllm_plugin.data.schema import read_rows
    from spacevllm_plugin.data.synthetic import SynthConfig, write_set

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data, model, index = work / "data", work / "model", work / "media.index"
        make_tiny("qwen3_vl", model, merge_size=1)  # as LLaMA-Factory's own template wants it
        write_set(work / "originals", SynthConfig(num_videos=ORIGINALS))
        by_video = {row.videos[0]: row for row in read_rows(work / "originals" / "annotations.jsonl")}
        data.mkdir()
        videos = copies([work / "originals" / video for video in by_video], data / "videos", args.videos)
        write_rows(data, videos, [row.model_dump(exclude_none=True) for row in by_video.values()], args.rows)
        sides = {
            "LLaMA-Factory": ("theirs", {}),
            "ours": ("ours", {}),
            "ours, new media_index": ("ours", {"media_index": str(index)}),
            "ours, known media_index": ("ours", {"media_index": str(index)}),
            "ours, after check": ("ours", {"media_index": str(work / "checked.index")}),
        }
        checked = check(data, work / "checked.index", args.workers, args.rows)
        taken: dict[str, list[Watched]] = {name: [] for name in sides}
        for _ in range(args.turns):
            index.unlink(missing_ok=True)
            for name, (side, options) in sides.items():
                run = recipe(model, data, work / "out", side, preprocessing_num_workers=args.workers, **options)
                taken[name].append(watch([__file__, "--run", json.dumps(run)], work, plugin=side == "ours"))

    table = {"check": checked, **{name: figures(runs, args.rows) for name, runs in taken.items()}}
    print(f"{args.rows} rows about {args.videos} videos, {args.workers} processes, {args.turns} turns")
    print(f"{'':24}{'rows/s':>10}{'tokenising':>12}{'opened':>14}{'peak MiB':>10}{'growth':>10}")
    for name, found in table.items():
        print(line(name, found))

    if args.out:
        args.out.write_text(
            json.dumps({**{k: v for k, v in vars(args).items() if k not in ("out", "run")}, **table}, indent=2)
        )


if __name__ == "__main__":
    main()
