"""Models with random weights, filled where they are used, as LLaMA-Factory makes them ready to train or to ground."""

from pathlib import Path
from typing import Any

import torch
import yaml

from spacevllm_plugin.inference.engine import Engine


RECIPES = Path(__file__).parents[2] / "examples" / "train_lora"
# Instead of the recipe's LoRA under bf16 autocast: everything, in fp32, without checkpointing.
IN_FULL = {
    "finetuning_type": "full",
    "freeze_vision_tower": False,
    "freeze_multi_modal_projector": False,
    "disable_gradient_checkpointing": True,
    "bf16": False,
}
# What a recipe says of things that are not measured.
ASIDE = {
    "plot_loss": False,
    "report_to": "none",
    "eval_dataset": None,
    "eval_strategy": "no",
    "grounding_metrics": False,
}


def device() -> str:
    """Where everything is built and run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def limits(frames: int, side: int) -> dict[str, int]:
    """LLaMA-Factory's options for frames of this many, this large."""
    return {"video_maxlen": frames, "video_max_pixels": side * side}


def training_run(backbone: str, checkpoint: Path, in_full: bool = False, **changes: Any) -> dict[str, Any]:
    """What a YAML file would say: the backbone's LoRA recipe on another checkpoint.

    Args:
        backbone: Its name here.
        checkpoint: Folder of a checkpoint without weights.
        in_full: Train all weights in fp32 instead of adapters.
        **changes: Further options.
    """
    recipe = yaml.safe_load((RECIPES / f"spacevllm_{backbone}_lora.yaml").read_text())
    own = {"model_name_or_path": str(checkpoint), "output_dir": str(checkpoint / "run"), "train_from_scratch": True}
    return {**recipe, **ASIDE, **(IN_FULL if in_full else {}), **own, "use_cpu": device() == "cpu", **changes}


def load_for_training(run: dict[str, Any]) -> Engine:
    """An engine whose model LLaMA-Factory has made ready to train."""
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer

    model_args, data_args, _, finetuning_args, _ = get_train_args(dict(run))
    modules = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(modules["tokenizer"], data_args)
    with torch.device(device()):  # fills the weights in place: no copy on the host, none on a disk
        model = load_model(modules["tokenizer"], model_args, finetuning_args, is_trainable=True)

    if finetuning_args.finetuning_type == "full":
        model.float()

    return Engine(model, template, modules["processor"], template.mm_plugin.prompter(modules["processor"]))


def load_for_grounding(checkpoint: Path, dtype: str, new_tokens: int, **options: Any) -> Engine:
    """An engine to ground with.

    Args:
        checkpoint: Folder of a checkpoint without weights.
        dtype: Of the weights.
        new_tokens: Tokens of every answer: random weights might end theirs anywhere.
        **options: LLaMA-Factory's.
    """
    from spacevllm_plugin.integration.engine_loader import load_engine

    with torch.device(device()):
        engine = load_engine(str(checkpoint), train_from_scratch=True, infer_dtype=dtype, **options)

    if engine.model.dtype != getattr(torch, dtype):  # from scratch, LLaMA-Factory goes by config.json
        engine.model.to(getattr(torch, dtype))

    engine.model.generation_config.min_new_tokens = new_tokens
    return engine
