"""Training on several sentences of one video: as one sequence (`sentences_per_video`) against a row for each.

`python benchmarks/sentences.py [--size tiny|100m] [--sentences 8] [--out figures.json]` makes a video with that many
sentences and a checkpoint with random weights. A step of each side is forward, backward and AdamW over all sentences: of
one sequence, or of as many rows, one after the other as gradient accumulation takes them, which is what costs least on a
CPU (no row is padded). Both sides take turns on the same model, from batches of LLaMA-Factory's own loader and collator;
their losses are compared first. Reading and collating are timed apart: a row for each sentence decodes the video as often.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from gpu.measuring import Measurement, measured
from gpu.shapes import write_checkpoint
from shape_100m import SHAPE_100M

from spacevllm_plugin.bootstrap import install
from spacevllm_plugin.data.schema import dump_row
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.modeling.box_bits import from_bits


Batch = dict[str, torch.Tensor]
SIDES = {"tiny": 48, "100m": 384}  # of a frame, in pixels
FORMS = ("{}", "Please: {}", "Tell me. {}", "{} Be exact.", "Look closely. {}", "{} Thank you.", "Now, {}", "Then: {}")


def write_data(folder: Path, side: int, frames: int, sentences: int) -> None:
    """One video and its rows; with few shapes, they ask in several ways."""
    rows = write_set(folder, SynthConfig(num_videos=1, size=side, num_frames=frames))
    lines = []
    for number in range(sentences):
        row = rows[number % len(rows)].model_copy(deep=True, update={"id": str(number)})
        tag, question = row.messages[0].content[: len("<video>")], row.messages[0].content[len("<video>") :]
        row.messages[0].content = tag + FORMS[number // len(rows) % len(FORMS)].format(question)
        lines.append(dump_row(row) + "\n")

    (folder / "annotations.jsonl").write_text("".join(lines))


def load(run: dict[str, Any], with_model: bool) -> tuple[Any, list[list[dict[str, Any]]], Callable[..., Batch]]:
    """The model (or None), the rows as the loader gives them, and the collator, by LLaMA-Factory's own functions."""
    from llamafactory.hparams import get_train_args
    from llamafactory.train.sft import workflow

    model_args, data_args, training_args, finetuning_args, _ = get_train_args(dict(run))
    tokenizers = workflow.load_tokenizer(model_args)
    template = workflow.get_template_and_fix_tokenizer(tokenizers["tokenizer"], data_args)
    with redirect_stdout(StringIO()):  # the first row, token by token
        sets = workflow.get_dataset(template, model_args, data_args, training_args, stage="sft", **tokenizers)

    model = None
    if with_model:
        model = workflow.load_model(tokenizers["tokenizer"], model_args, finetuning_args, is_trainable=True).float()

    def collate(model: Any, row: dict[str, Any]) -> Batch:
        collator = workflow.SFTDataCollatorWith4DAttentionMask(template=template, model=model, **tokenizers)
        return collator([row])

    return model, list(sets["train_dataset"]), collate


def median(samples: list[Measurement]) -> float:
    """Of seconds."""
    return statistics.median(one.seconds for one in samples)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIDES, default="tiny")
    parser.add_argument("--sentences", type=int, default=8)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    install()
    device, side, count = "cuda" if torch.cuda.is_available() else "cpu", SIDES[args.size], args.sentences
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_checkpoint(SHAPE_100M, work / "model", tiny=args.size == "tiny")
        write_data(work / "data", side, args.frames, count)
        run = {
            "model_name_or_path": str(work / "model"),
            "train_from_scratch": True,
            "template": "spacevllm_qwen3_vl",
            "dataset_dir": str(work / "data"),
            "dataset": next(iter(json.loads((work / "data" / "dataset_info.json").read_text()))),
            "output_dir": str(work / "out"),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "freeze_vision_tower": False,
            "freeze_multi_modal_projector": False,
            "disable_gradient_checkpointing": True,
            "cutoff_len": 32768,
            "video_maxlen": args.frames,
            "video_max_pixels": side * side,
            "report_to": "none",
            "use_cpu": device == "cpu",
        }
        torch.manual_seed(0)
        model, rows, collate = load(run, with_model=True)
        _, groups, _ = load({**run, "sentences_per_video": count}, with_model=False)
        table = {"one sequence": groups, "a row each": rows}
        reading = {name: [] for name in table}
        batches: dict[str, list[Batch]] = {}
        for _ in range(3):
            for name, features in table.items():

                def read(name: str = name, features: list = features) -> None:
                    batches[name] = [collate(model, feature) for feature in features]

                reading[name].append(measured(read))

    assert [len(found) for found in batches.values()] == [1, count], "the rows do not make one sequence"
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)  # all its work, and the same weights for both sides
    losses: dict[str, float] = {}

    def step(name: str) -> None:
        tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches[name])
        boxes = sum(int(torch.isfinite(from_bits(batch["box_targets"])).all(dim=-1).sum()) for batch in batches[name])
        losses[name] = 0.0
        for batch in batches[name]:
            batch = {key: value.to(device) for key, value in batch.items() if isinstance(value, torch.Tensor)}
            loss = model(**batch, num_items_in_batch=tokens, num_boxes_in_batch=boxes).loss
            loss.backward()
            losses[name] += loss.item()

        optimizer.step()
        optimizer.zero_grad()

    taken: dict[str, list[Measurement]] = {name: [] for name in batches}
    for turn in range(args.turns + 1):
        for name in batches:
            one = measured(lambda name=name: step(name))
            if turn:  # the first is a warm-up
                taken[name].append(one)
            else:
                first = dict(losses)

    one, other = (median(samples) for samples in taken.values())
    figures = {
        "size": args.size,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "frames": args.frames,
        "sentences": count,
        "tokens": {name: sum(batch["input_ids"].shape[1] for batch in own) for name, own in batches.items()},
        "loss": first,
        "seconds": {name: [sample.seconds for sample in own] for name, own in taken.items()},
        "peak_gib": {name: max(sample.peak_gib for sample in own) for name, own in taken.items()},
        "reading_seconds": {name: median(own) for name, own in reading.items()},
        "times_the_sentences_per_second": other / one,
    }
    print(
        f"{figures['parameters'] / 1e6:.0f} M parameters, {args.frames} frames, {count} sentences, {figures['device']}"
    )
    print(f"{'':14}{'tokens':>8}{'s a step':>10}{'(all)':>16}{'sentences/s':>13}{'reading s':>11}{'loss':>12}")
    for name, samples in taken.items():
        seconds = [sample.seconds for sample in samples]
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(
            f"{name:14}{figures['tokens'][name]:>8}{median(samples):>10.3f}{spread:>16}{count / median(samples):>13.3f}"
            f"{figures['reading_seconds'][name]:>11.3f}{first[name]:>12.6f}"
        )

    print(f"{other / one:.2f} times the sentences per second")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
