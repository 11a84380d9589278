"""Backbones of the size that people train, without their weights: the hub's configurations over a tiny checkpoint.

Tokenizer, special tokens and chat template stay the tiny checkpoint's; everything that decides how much there is to
compute, the embedding's rows included, is as in the published config.json and processor configuration.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacevllm_plugin.backbones.tiny import make_tiny


@dataclass(frozen=True)
class Shape:
    """One backbone.

    Attributes:
        backbone: Its name here.
        hub_id: Whose shape it is.
        config: What config.json says there and a tiny checkpoint's does not.
        processor: Likewise processor_config.json.
    """

    backbone: str
    hub_id: str
    config: dict[str, Any]
    processor: dict[str, Any]


QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "layer_types": ["full_attention"] * 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}


def qwen_patches(size: int) -> dict[str, Any]:
    """Patches of a Qwen processor: `size` pixels wide, two by two merged, frames in pairs."""
    patches = {"patch_size": size, "merge_size": 2, "temporal_patch_size": 2}
    return {"image_processor": patches, "video_processor": patches}


SHAPES = {
    "qwen3_vl_4b": Shape(
        "qwen3_vl",
        "Qwen/Qwen3-VL-4B-Instruct",
        {
            "text_config": {
                "vocab_size": 151936,
                "hidden_size": 2560,
                "intermediate_size": 9728,
                "num_hidden_layers": 36,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "max_position_embeddings": 262144,
                "initializer_range": 0.02,
                "rope_parameters": {"rope_theta": 5e6, "mrope_section": [24, 20, 20]},
            },
            "vision_config": {
                "depth": 24,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_heads": 16,
                "patch_size": 16,
                "temporal_patch_size": 2,
                "out_hidden_size": 2560,
                "num_position_embeddings": 2304,
                "deepstack_visual_indexes": [5, 11, 17],
                "initializer_range": 0.02,
            },
        },
        qwen_patches(16),
    ),
    "llava_onevision_7b": Shape(
        "llava_onevision",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        {
            "text_config": {**QWEN2_7B, "vocab_size": 152128, "rope_parameters": {"rope_theta": 1e6}},
            "vision_config": {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 26,
                "num_attention_heads": 16,
                "image_size": 384,
                "patch_size": 14,
            },
            "image_grid_pinpoints": [[384, 384]],
            "tie_word_embeddings": False,
        },
        {
            "image_processor": {"size": {"height": 384, "width": 384}, "image_grid_pinpoints": [[384, 384]]},
            "video_processor": {"size": {"height": 384, "width": 384}},
            "num_image_tokens": 729,
        },
    ),
    "qwen2_5_vl_7b": Shape(
        "qwen2_5_vl",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        {
            "text_config": {
                **QWEN2_7B,
                "vocab_size": 152064,
                "max_position_embeddings": 128000,
                "rope_parameters": {"rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            },
            "vision_config": {
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "patch_size": 14,
                "out_hidden_size": 3584,
                "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31],
                "initializer_range": 0.02,
            },
            "tie_word_embeddings": False,
        },
        qwen_patches(14),
    ),
}


def write_checkpoint(shape: Shape, out: Path, tiny: bool = False) -> None:
    """Write a checkpoint folder without weights, to be filled with random bf16 numbers where it is loaded.

    Args:
        shape: The backbone.
        out: The folder.
        tiny: Keep the tiny checkpoint's shape.
    """
    make_tiny(shape.backbone, out)
    (out / "model.safetensors").unlink()
    _overlay(out / "config.json", {"dtype": "bfloat16"} if tiny else {"dtype": "bfloat16", **shape.config})
    if not tiny:
        _overlay(out / "processor_config.json", shape.processor)


def _overlay(file: Path, values: dict[str, Any]) -> None:
    def laid(below: dict, above: dict) -> dict:
        merged = {**below, **above}
        for name in below.keys() & above.keys():
            if isinstance(below[name], dict) and isinstance(above[name], dict):
                merged[name] = laid(below[name], above[name])

        return merged

    file.write_text(json.dumps(laid(json.loads(file.read_text()), values), indent=2))
