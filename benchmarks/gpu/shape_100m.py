"""A Qwen3-VL of 100 million parameters: large enough that a video costs what it costs elsewhere, small enough for a CPU."""

from dataclasses import replace

from gpu.shapes import Shape, qwen_patches


SHAPE_100M = Shape(
    "qwen3_vl",
    "none: a Qwen3-VL of 100 million parameters",
    {
        "text_config": {
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "initializer_range": 0.02,
            "rope_parameters": {"rope_theta": 5e6, "mrope_section": [12, 10, 10]},
        },
        "vision_config": {
            "depth": 12,
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_heads": 6,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "out_hidden_size": 768,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [3, 6, 9],
            "initializer_range": 0.02,
        },
    },
    qwen_patches(16),
)


def with_vocabulary(shape: Shape, words: int = 151936) -> Shape:
    """With as many rows of the embedding as Qwen3-VL has, where the logits are what is measured."""
    text = {**shape.config["text_config"], "vocab_size": words}
    return replace(shape, config={**shape.config, "text_config": text})
