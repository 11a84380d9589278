"""SpaceVLLM against its plain backbone at one shape, with the same weights, in one run: a training step, one grounding.

The plain side is transformers' own class over the same modules, with the same frames and text but without queries: in
training the language loss alone, in grounding the span's text alone, as many new tokens. Both train LoRA adapters and
checkpoint as the shape's recipe says, under bf16 autocast. Run by `gpu_check.py`, in a process of its own.
"""

import argparse
import gc
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpu.engines import limits, load_for_grounding, load_for_training, training_run
from gpu.measuring import compare, measured
from gpu.shapes import SHAPES, Shape, write_checkpoint
from gpu.sides import NEW_TOKENS, ground, plain_side, read_inputs, training_inputs, write
from gpu.training import fresh_step
from spacevllm_plugin.bootstrap import install
from spacevllm_plugin.data.schema import AnnotationRow
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.inference.engine import Engine
from spacevllm_plugin.inference.grounding import GroundingItem


FRAMES, SIDE = 64, 448
TINY_FRAMES, TINY_SIDE = 12, 48
EXTRA = r"lora_|original_module"  # parameters that training adds
TURNS = 3


def compare_training(engine: Engine, shape: Shape, row: AnnotationRow, item: GroundingItem) -> dict[str, Any]:
    """One step of each side."""
    ours, plain = training_inputs(engine, row, item)
    parameters = [parameter for parameter in engine.model.parameters() if parameter.requires_grad]

    def side(model: Any, inputs: dict[str, torch.Tensor]) -> Any:
        return partial(fresh_step, lambda: model(**inputs).loss, parameters, half=True)

    sides = {"ours": side(engine.model, ours), "plain": side(plain_side(engine.model, shape.backbone), plain)}
    tokens = {"ours": ours["input_ids"].shape[1], "plain": plain["input_ids"].shape[1]}
    return {"tokens": tokens, "trained_parameters": sum(p.numel() for p in parameters), **compare(sides, TURNS)}


def compare_grounding(engine: Engine, shape: Shape, item: GroundingItem) -> dict[str, Any]:
    """`ground_batch` against reading the same frames and generating as many tokens."""
    plain = plain_side(engine.model, shape.backbone)
    actions = {"ours": partial(ground, engine, item), "plain": partial(write, engine, plain, item)}
    for warm_up in actions.values():
        warm_up()

    sides = {name: partial(measured, action) for name, action in actions.items()}
    reading = measured(lambda: read_inputs(engine, item, []))
    return {"new_tokens": NEW_TOKENS, "reading_seconds": reading.seconds, **compare(sides, TURNS)}


def main() -> None:
    """Measure one shape and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the video and the configuration")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    parser.add_argument("--dry", action="store_true", help="the tiny shape, for a CPU")
    args = parser.parse_args()
    install()
    from spacevllm_plugin.inference.engine import row_item

    shape = SHAPES[args.shape]
    frames, side = (TINY_FRAMES, TINY_SIDE) if args.dry else (FRAMES, SIDE)
    checkpoint, data = args.work / "checkpoint", args.work / "data"
    write_checkpoint(shape, checkpoint, tiny=args.dry)
    row, *_ = write_set(data, SynthConfig(num_videos=1, size=side, num_frames=frames))
    options = limits(frames, side)

    torch.manual_seed(0)
    engine = load_for_training(training_run(shape.backbone, checkpoint, **options))
    config = engine.model.get_base_model().config
    figures = {
        "shape": args.shape if not args.dry else f"tiny {shape.backbone}",
        "hub_id": shape.hub_id,
        "parameters": sum(p.numel() for name, p in engine.model.named_parameters() if not re.search(EXTRA, name)),
        "frames": frames,
        "side": side,
        "queries": len(row_item(engine, row, data).videos[0].groups),
        "attention": config.get_text_config()._attn_implementation,
        "train": compare_training(engine, shape, row, row_item(engine, row, data)),
    }
    del engine
    gc.collect()
    torch.cuda.empty_cache()

    engine = load_for_grounding(checkpoint, "bfloat16", NEW_TOKENS, **options)
    figures["ground"] = compare_grounding(engine, shape, row_item(engine, row, data))
    args.out.write_text(json.dumps(figures, indent=2))
    print(f"{figures['shape']}: measured")


if __name__ == "__main__":
    main()
