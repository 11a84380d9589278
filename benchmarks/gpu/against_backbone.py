"""SpaceVLLM against its plain backbone at one shape, with the same weights, in one run: a training step, one grounding.

The plain side is transformers' own class over the same modules, with the same frames and text but without queries: in
training the language loss alone, in grounding the span's text alone, as many new tokens. Both train LoRA adapters and
checkpoint as the shape's recipe says, under bf16 autocast. Run by `gpu_check.py`, in a process of its own.
"""

import argparse
import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from gpu.measuring import Measurement, compare, measured
from gpu.shapes import SHAPES, Shape, write_checkpoint
from spacevllm_plugin.bootstrap import install
from spacevllm_plugin.data.schema import AnnotationRow
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.data.targets import query_targets
from spacevllm_plugin.inference.grounding import GroundingItem, ground_batch
from spacevllm_plugin.modeling.configuration import STAQ_TOKEN


RECIPES = Path(__file__).parents[2] / "examples" / "train_lora"
STOCK = {
    "qwen3_vl": transformers.Qwen3VLForConditionalGeneration,
    "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
    "llava_onevision": transformers.LlavaOnevisionForConditionalGeneration,
}
FRAMES, SIDE = 64, 448
TINY_FRAMES, TINY_SIDE = 12, 48
EXTRA = r"lora_|original_module"  # parameters that training adds
NEW_TOKENS = 16  # `From 12.0 to 18.5 seconds.` and its end
TURNS = 3

Inputs = dict[str, torch.Tensor]


def device() -> str:
    """Where everything is built and run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_trainable(folder: Path, backbone: str, limits: dict[str, int]) -> Any:
    """An engine whose model LLaMA-Factory has made ready for the recipe's LoRA training, with random weights."""
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer

    from spacevllm_plugin.inference.engine import Engine

    recipe = yaml.safe_load((RECIPES / f"spacevllm_{backbone}_lora.yaml").read_text())
    changes = {"model_name_or_path": str(folder), "output_dir": str(folder / "run"), "train_from_scratch": True}
    run = {**recipe, **changes, **limits, "use_cpu": device() == "cpu", "plot_loss": False}
    model_args, data_args, _, finetuning_args, _ = get_train_args(run)
    modules = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(modules["tokenizer"], data_args)
    with torch.device(device()):  # fills the weights in place: no copy on the host, none on a disk
        model = load_model(modules["tokenizer"], model_args, finetuning_args, is_trainable=True)

    prompter = template.mm_plugin.prompter(modules["processor"])
    return Engine(model, template, modules["processor"], prompter)


def plain_side(model: Any, backbone: str) -> Any:
    """Transformers' own class over the modules of ours, adapters in them included."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.device("meta"):
        plain = STOCK[backbone](base.config)

    plain.model, plain.lm_head, plain.generation_config = base.model, base.lm_head, base.generation_config
    return plain.train(base.training)


def plain_inputs(engine: Any, inputs: Inputs) -> Inputs:
    """The same prompt of one row without its queries, as transformers' own class takes it."""
    names = engine.processor.tokenizer.convert_tokens_to_ids([STAQ_TOKEN, engine.prompter.video_token])
    query, video = names
    keep = inputs["input_ids"][0] != query
    plain = {name: inputs[name][:, keep] for name in ("input_ids", "attention_mask", "labels") if name in inputs}
    if "video_grid_thw" in inputs:
        plain |= {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw")}
        plain["mm_token_type_ids"] = 2 * (plain["input_ids"] == video).int()
    else:
        plain["pixel_values_videos"] = inputs["pixel_values"][None]

    return plain


def read_inputs(engine: Any, item: GroundingItem, answer: list[int]) -> Inputs:
    """A prompt and its answer as a batch of one, on the device."""
    ids = torch.tensor([item.token_ids + answer])
    inputs = engine.prompter.model_inputs(ids.tolist(), [item.images], [item.videos])
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {name: value.to(device()) for name, value in inputs.items()}


def compare_training(engine: Any, shape: Shape, row: AnnotationRow, item: GroundingItem) -> dict[str, Any]:
    """One step of each side, the second of a fresh optimizer: its states are there, and nobody else's."""
    tokenizer = engine.processor.tokenizer
    answer = [*tokenizer.encode(row.messages[-1].content), tokenizer.eos_token_id]
    ours = read_inputs(engine, item, answer)
    ours["labels"] = torch.full_like(ours["input_ids"], -100)
    ours["labels"][:, -len(answer) :] = ours["input_ids"][:, -len(answer) :]
    plain = plain_inputs(engine, ours)
    ours["box_targets"] = torch.tensor(query_targets(row, 0, item.videos)[1][0], device=device())
    parameters = [parameter for parameter in engine.model.parameters() if parameter.requires_grad]

    def side(model: Any, inputs: Inputs) -> Callable[[], Measurement]:
        def turn() -> Measurement:
            optimizer = torch.optim.AdamW(parameters, lr=1e-5)

            def step() -> None:
                with torch.autocast(device(), dtype=torch.bfloat16):
                    loss = model(**inputs).loss

                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if not loss.isfinite():
                    raise ValueError(f"the loss is {loss.item()}")

            step()
            return measured(step)

        return turn

    sides = {"ours": side(engine.model, ours), "plain": side(plain_side(engine.model, shape.backbone), plain)}
    tokens = {"ours": ours["input_ids"].shape[1], "plain": plain["input_ids"].shape[1]}
    return {"tokens": tokens, "trained_parameters": sum(p.numel() for p in parameters), **compare(sides, TURNS)}


def compare_grounding(engine: Any, shape: Shape, item: GroundingItem) -> dict[str, Any]:
    """`ground_batch` against reading the same frames and generating as many tokens."""
    model = engine.model
    model.generation_config.min_new_tokens = NEW_TOKENS  # random weights might end their answer anywhere
    plain = plain_side(model, shape.backbone)

    def ground() -> None:
        (prediction,) = ground_batch(model, engine.prompter, [item], NEW_TOKENS)
        boxes = torch.tensor(prediction.boxes)
        if len(boxes) != len(item.videos[0].groups) or not boxes.isfinite().all():
            raise ValueError(f"{len(boxes)} boxes for {len(item.videos[0].groups)} queries, or some without a number")

    def generate() -> None:
        inputs = plain_inputs(engine, read_inputs(engine, item, []))
        with torch.no_grad():
            output = plain.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)

        engine.processor.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :])

    for warm_up in (ground, generate):
        warm_up()

    sides = {"ours": lambda: measured(ground), "plain": lambda: measured(generate)}
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
    from spacevllm_plugin.integration.engine_loader import load_engine

    shape = SHAPES[args.shape]
    frames, side = (TINY_FRAMES, TINY_SIDE) if args.dry else (FRAMES, SIDE)
    checkpoint, data = args.work / "checkpoint", args.work / "data"
    write_checkpoint(shape, checkpoint, tiny=args.dry)
    row, *_ = write_set(data, SynthConfig(num_videos=1, size=side, num_frames=frames))
    limits = {"video_maxlen": frames, "video_max_pixels": side * side}

    torch.manual_seed(0)
    engine = load_trainable(checkpoint, shape.backbone, limits)
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

    with torch.device(device()):
        engine = load_engine(str(checkpoint), train_from_scratch=True, infer_dtype="bfloat16", **limits)

    figures["ground"] = compare_grounding(engine, shape, row_item(engine, row, data))
    args.out.write_text(json.dumps(figures, indent=2))
    print(f"{figures['shape']}: measured")


if __name__ == "__main__":
    main()
