"""How large a shape is: its parameters by what they do in training, and its keys and values; from a model without weights."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from gpu.shapes import Shape, write_checkpoint
from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.upgrade import upgrade_config
from spacevllm_plugin.bootstrap import install
from spacevllm_plugin.modeling.grounding_model import is_head


@dataclass(frozen=True)
class Sizes:
    """Counts of parameters, unless said otherwise.

    Attributes:
        total: All, queries and space decoder included.
        heads: Queries and space decoder.
        full: What full training trains with the vision tower frozen, as the recipes do.
        lora: What LoRA of the given rank trains: adapters of the language model's linear layers, and the heads.
        layers: Layers of the language model.
        width: Of its states.
        kv_width: Of all of a layer's keys, and of its values.
    """

    total: int
    heads: int
    full: int
    lora: int
    layers: int
    width: int
    kv_width: int


def empty_model(shape: Shape, tiny: bool = False) -> torch.nn.Module:
    """SpaceVLLM of a shape on torch's meta device."""
    install()
    spec = registry.get(shape.backbone)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(shape, Path(folder), tiny)
        config = AutoConfig.from_pretrained(folder)

    ids = {"staq_token_id": 1, "image_token_id": 2, "video_token_id": 3}  # of no consequence for sizes
    with torch.device("meta"):
        return spec.model_class(upgrade_config(config, ids))


def count(parameters: Any) -> int:
    """Numbers in parameters."""
    return sum(parameter.numel() for parameter in parameters)


def sizes_of(shape: Shape, lora_rank: int, tiny: bool = False) -> Sizes:
    """A shape's sizes.

    Args:
        shape: The shape.
        lora_rank: As in the recipes.
        tiny: Those of the tiny checkpoint instead.
    """
    from llamafactory.model.model_utils.visual import COMPOSITE_MODELS

    model = empty_model(shape, tiny)
    frozen = COMPOSITE_MODELS[model.config.model_type].vision_model_keys
    heads = count(parameter for name, parameter in model.named_parameters() if is_head(name))
    linear = [part for part in model.model.language_model.modules() if isinstance(part, torch.nn.Linear)]
    text = model.config.get_text_config()
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Sizes(
        total=count(model.parameters()),
        heads=heads,
        full=count(
            parameter for name, parameter in model.named_parameters() if not any(key in name for key in frozen)
        ),
        lora=heads + sum(lora_rank * (part.in_features + part.out_features) for part in linear),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        kv_width=text.num_key_value_heads * head_width,
    )
