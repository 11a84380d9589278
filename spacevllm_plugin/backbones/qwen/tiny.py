"""What the tiny checkpoints of the Qwen-VL family share."""

from transformers import Qwen2Tokenizer

from ..tiny import TEXT, VISION


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


def token_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    """The special tokens a Qwen config names."""
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
