"""Claim: the space decoder under `torch.compile` gives the boxes that it gives without.

`python benchmarks/compiled_decoder.py [--size tiny|100m|7b]` runs the model on one video, with the decoder as it is and
compiled, in turns, and compares the boxes (normalised); forward and backward of the space loss as well. Exit code 1 if
boxes are farther apart than `--close`.
"""

import sys
from functools import partial

import torch
from gpu.asked import write_asked
from gpu.claims import command_line, report, setting
from gpu.measuring import measured, rows_of
from gpu.sides import training_inputs

from spacevllm_plugin.inference.engine import row_item


def main() -> None:
    """Measure, compare, print a table."""
    parser = command_line(__doc__)
    parser.add_argument("--close", type=float, default=1e-5, help="of a frame's side (default: %(default)s)")
    args = parser.parse_args()
    with setting(args) as chosen:
        engine = chosen.trainable()
        row, *_ = write_asked(chosen.work / "data", chosen.side, chosen.frames)
        inputs, _ = training_inputs(engine, row, row_item(engine, row, chosen.work / "data"))
        model = engine.model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        decoder = base.space_decoder
        heads = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
        boxes, gradients = {}, {}

        def run(name: str) -> None:
            # Once compiled in place, a module stays so.
            as_told = torch.compiler.set_stance("force_eager" if name == "eager" else "default")
            with as_told, torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=chosen.half):
                output = model(**inputs)

            output.loss.backward()
            boxes[name] = output.boxes.detach()
            gradients[name] = torch.cat([parameter.grad.flatten() for parameter in heads])
            model.zero_grad()

        decoder.compile()
        taken = chosen.turns_of(
            {name: partial(measured, partial(run, name)) for name in ("compiled", "eager")}, warm=True
        )
        apart = (boxes["compiled"] - boxes["eager"]).abs().max().item()
        scale = gradients["eager"].norm().item()
        facts = {
            "frames": chosen.frames,
            "boxes": len(boxes["eager"]),
            "boxes_apart": apart,
            "gradients_apart": (gradients["compiled"] - gradients["eager"]).norm().item() / scale,
        }
        report(args, "compiled decoder", rows_of(taken, "eager"), **facts)

    sys.exit(f"boxes are {apart:.2e} apart" if apart > args.close else 0)


if __name__ == "__main__":
    main()
