"""What the tiny checkpoints of the Qwen-VL family share."""

from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from ..tiny import FRAME_SIZE, HALF, PATCH_SIZE, ROPE_THETA, TEXT, VISION


TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
MARKS = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "video": "<|vision_start|><|video_pad|><|vision_end|>",
}
VISION_TOWER = {
    **VISION,
    "depth": 2,
    "num_heads": 4,
    "spatial_merge_size": 2,
    "out_hidden_size": TEXT["hidden_size"],
    "initializer_range": TEXT["initializer_range"],
}
MROPE_SECTION = [6, 5, 5]  # sums to half a head's 32 dimensions
# Pixels in all: small enough and large enough that a tiny frame keeps its size.
SIZE = {"shortest_edge": 16 * 16, "longest_edge": 2**24}


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The special tokens a Qwen config names."""
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


# Qwen3-VL and its heirs.

INTERLEAVED_ROPE = {
    "rope_type": "default",
    "rope_theta": ROPE_THETA,
    "mrope_section": MROPE_SECTION,
    "mrope_interleaved": True,
}


def qwen3_tower(merge_size: int) -> dict:
    """The vision part of a config; a visual token stays as large as ever, whatever it merges along each side."""
    patch_size = 2 * PATCH_SIZE // merge_size
    return {
        **VISION_TOWER,
        "patch_size": patch_size,
        "spatial_merge_size": merge_size,
        # A video this small has no frames to spare.
        "temporal_patch_size": 1,
        "intermediate_size": 256,
        "num_position_embeddings": (FRAME_SIZE // patch_size) ** 2,
    }


def qwen3_processor(tokenizer: PreTrainedTokenizerFast, tower: dict, chat_template: str) -> Qwen3VLProcessor:
    """The processor that fits a vision tower, see `qwen3_tower`."""
    patches = {"patch_size": tower["patch_size"], "merge_size": tower["spatial_merge_size"], "temporal_patch_size": 1}
    pixels = {"size": SIZE, "image_mean": HALF, "image_std": HALF}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches, **pixels),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**patches, **pixels),
        chat_template=chat_template,
    )
