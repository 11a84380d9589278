"""Claim: training on several sentences of one video as one sequence (`sentences_per_video`) saves nearly all of their videos.

`python benchmarks/sentences.py [--size tiny|100m|7b] [--sentences 8]` makes a video with that many sentences and a checkpoint
with random weights. A step of each side is forward, backward and AdamW over all sentences: of one sequence, or of as many
rows, one after the other as gradient accumulation takes them, which is what costs least on a CPU (no row is padded). Both
sides take turns on the same model, from batches of LLaMA-Factory's own loader and collator; their losses stand in the table.
Reading and collating are timed apart: a row for each sentence decodes the video as often.

The real shape trains LoRA as its recipe under examples/train_lora says, the small ones in full, in fp32.
"""

from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from typing import Any

import torch
from gpu.asked import name_of, write_asked
from gpu.claims import Setting, about, command_line, report, setting
from gpu.engines import device
from gpu.measuring import Measurement, measured, rows_of, unless_out_of_memory

from spacevllm_plugin.modeling.box_bits import from_bits


Batch = dict[str, torch.Tensor]


def load_rows(run: dict[str, Any]) -> tuple[list[dict[str, Any]], Callable[..., Batch]]:
    """The rows as the loader gives them, and the collator, by LLaMA-Factory's own functions."""
    from llamafactory.hparams import get_train_args
    from llamafactory.train.sft import workflow

    model_args, data_args, training_args, _, _ = get_train_args(dict(run))
    tokenizers = workflow.load_tokenizer(model_args)
    template = workflow.get_template_and_fix_tokenizer(tokenizers["tokenizer"], data_args)
    with redirect_stdout(StringIO()):  # the first row, token by token
        sets = workflow.get_dataset(template, model_args, data_args, training_args, stage="sft", **tokenizers)

    def collate(model: Any, row: dict[str, Any]) -> Batch:
        collator = workflow.SFTDataCollatorWith4DAttentionMask(template=template, model=model, **tokenizers)
        return collator([row])

    return list(sets["train_dataset"]), collate


class Sides:
    """Both sides of one model.

    Attributes:
        losses: Of each side's last step.
        tokens: Of each side's batches.
        reading: Of each side's batches, once.
    """

    def __init__(self, chosen: Setting, sentences: int) -> None:
        data = chosen.work / "data"
        write_asked(data, chosen.side, chosen.frames, sentences=sentences)
        about = {"dataset_dir": str(data), "dataset": name_of(data), "flash_attn": "sdpa"}
        rows, collate = load_rows(chosen.training_run(**about))
        groups, _ = load_rows(chosen.training_run(**about, sentences_per_video=sentences))
        assert (len(groups), len(rows)) == (1, sentences), "the rows do not make one sequence"
        self.half, self.model = chosen.half, chosen.trainable(**about).model
        self.batches: dict[str, list[Batch]] = {}
        self.reading: dict[str, Measurement] = {}
        for name, features in {"one sequence": groups, "a row each": rows}.items():
            self.reading[name] = measured(partial(self._read, name, features, collate))

        self.tokens = {name: sum(batch["input_ids"].shape[1] for batch in own) for name, own in self.batches.items()}
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.0)  # all its work, and the same weights for both sides
        self.losses: dict[str, float] = {}

    def _read(self, name: str, features: list[dict[str, Any]], collate: Callable[..., Batch]) -> None:
        self.batches[name] = [collate(self.model, feature) for feature in features]

    def step(self, name: str, batches: list[Batch] | None = None) -> Measurement:
        """A side's step, over all of its batches if not told which."""
        return measured(partial(self._step, name, batches or self.batches[name]))

    def _step(self, name: str, batches: list[Batch]) -> None:
        tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
        boxes = sum(int(torch.isfinite(from_bits(batch["box_targets"])).all(dim=-1).sum()) for batch in batches)
        losses = []
        try:
            for batch in batches:
                batch = {key: value.to(device()) for key, value in batch.items() if isinstance(value, torch.Tensor)}
                with torch.autocast(device(), dtype=torch.bfloat16, enabled=self.half):
                    loss = self.model(**batch, num_items_in_batch=tokens, num_boxes_in_batch=boxes).loss

                loss.backward()
                losses.append(loss.detach())

            self.optimizer.step()
        finally:
            self.optimizer.zero_grad()  # also of a step that ran out of memory

        self.losses[name] = torch.stack(losses).sum().item()


def main() -> None:
    """Measure and print a table."""
    parser = command_line(__doc__)
    parser.add_argument("--sentences", type=int, default=8, help="of the video (default: %(default)s)")
    args = parser.parse_args()
    with setting(args) as chosen:
        sides = Sides(chosen, args.sentences)
        for name, batches in sides.batches.items():
            unless_out_of_memory(partial(sides.step, name, batches[:1]))  # whatever is done once

        taken = chosen.turns_of({name: partial(sides.step, name) for name in sides.batches})
        rows = []
        for row in rows_of(taken, "a row each"):
            name, seconds = row["side"], row["seconds"]
            own = {
                "tokens": sides.tokens[name],
                "sentences_per_second": args.sentences / seconds if seconds else None,
                "reading_seconds": sides.reading[name].seconds,
                "loss": sides.losses.get(name),
            }
            rows.append({**row, **own})

        facts = {"frames": chosen.frames, "sentences": args.sentences}
        report(args, "sentences in training", rows, **facts, **about(sides.model))


if __name__ == "__main__":
    main()
