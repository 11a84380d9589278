"""A tiny Qwen3-VL."""

from collections.abc import Iterable

from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from ..qwen.tiny import MARKS, MROPE_SECTION, SIZE, TOKENS, VISION_TOWER, token_ids
from ..tiny import (
    CHATML_TOKENS,
    FRAME_SIZE,
    HALF,
    PATCH_SIZE,
    PHRASES,
    ROPE_THETA,
    STAMPS,
    TIMES,
    chat_template,
    text_part,
    train_tokenizer,
)


def build(corpus: Iterable[str], merge_size: int = 2) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The stock model and its processor.

    Args:
        corpus: The text that the tokenizer is trained on.
        merge_size: 1 or 2: patches that a visual token merges along each side.
    """
    tokenizer = train_tokenizer(corpus, CHATML_TOKENS + TOKENS, TIMES, PHRASES + STAMPS)
    # A visual token stays as large as ever. One frame per temporal patch: a video this small has no frames to spare.
    patch_size = 2 * PATCH_SIZE // merge_size
    patches = {"patch_size": patch_size, "merge_size": merge_size, "temporal_patch_size": 1}
    pixels = {"size": SIZE, "image_mean": HALF, "image_std": HALF}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches, **pixels),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**patches, **pixels),
        chat_template=chat_template(MARKS),
    )
    rope = {
        "rope_type": "default",
        "rope_theta": ROPE_THETA,
        "mrope_section": MROPE_SECTION,
        "mrope_interleaved": True,
    }
    config = Qwen3VLConfig(
        text_config=text_part(tokenizer, head_dim=32, rope_parameters=rope),
        vision_config={
            **VISION_TOWER,
            "patch_size": patch_size,
            "spatial_merge_size": merge_size,
            "temporal_patch_size": 1,
            "intermediate_size": 256,
            "num_position_embeddings": (FRAME_SIZE // patch_size) ** 2,
            "deepstack_visual_indexes": [0],
        },
        tie_word_embeddings=True,
        **token_ids(tokenizer),
    )
    return Qwen3VLForConditionalGeneration(config), processor
