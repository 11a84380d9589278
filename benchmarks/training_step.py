"""Claim: a training step costs what the plain backbone's costs, and less than LLaMA-Factory's own step on it.

`python benchmarks/training_step.py [--size tiny|100m|7b]` times three sides in turns: forward, backward and AdamW on one row.

- `ours`: language loss and boxes.
- `stock`: the plain backbone under stock LLaMA-Factory: transformers' own loss, for which it computes the logits of the whole
  prompt.
- `lean`: the plain backbone with logits at the supervised positions alone, which nobody offers; what is left is what
  queries and space decoder cost.

The real shape trains LoRA as its recipe under examples/train_lora says (checkpointing, bf16 autocast); the small ones train
in full, in fp32, with 151,936 words at 100 million parameters, as the logits' share depends on them.
"""

from functools import partial

from gpu.asked import write_asked
from gpu.claims import about, command_line, report, setting
from gpu.measuring import rows_of
from gpu.sides import lean_loss, plain_side, training_inputs
from gpu.training import fresh_step

from spacevllm_plugin.inference.engine import row_item


def main() -> None:
    """Measure and print a table."""
    args = command_line(__doc__).parse_args()
    with setting(args, vocabulary=args.size == "100m") as chosen:
        engine = chosen.trainable()
        row, *_ = write_asked(chosen.work / "data", chosen.side, chosen.frames)
        ours, inputs = training_inputs(engine, row, row_item(engine, row, chosen.work / "data"))
        plain = plain_side(engine.model, chosen.shape.backbone)
        trained = [parameter for parameter in engine.model.parameters() if parameter.requires_grad]
        losses = {
            "ours": lambda: engine.model(**ours).loss,
            "stock": lambda: plain(**inputs).loss,
            "lean": lambda: lean_loss(plain, inputs),
        }
        sides = {name: partial(fresh_step, loss_of, trained, chosen.half) for name, loss_of in losses.items()}
        taken = chosen.turns_of(sides)
        tokens = {"ours": ours["input_ids"].shape[1]}
        rows = [
            {**one, "tokens": tokens.get(one["side"], inputs["input_ids"].shape[1])} for one in rows_of(taken, "lean")
        ]
        facts = {"frames": chosen.frames, **about(engine.model)}
        report(args, "training step", rows, **facts, trained_in_millions=sum(p.numel() for p in trained) // 10**6)


if __name__ == "__main__":
    main()
