"""A tiny Qwen2.5-VL."""

from collections.abc import Iterable

from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from ..qwen.tiny import MARKS, MROPE_SECTION, SIZE, TOKENS, VISION_TOWER, token_ids
from ..tiny import (
    CHATML_TOKENS,
    PATCH_SIZE,
    PHRASES,
    ROPE_THETA,
    SENTENCE,
    SENTENCE_TIMES,
    TIMES,
    chat_template,
    text_part,
    train_tokenizer,
)


def build(corpus: Iterable[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The stock model and its processor; the tokenizer is trained on the corpus."""
    tokenizer = train_tokenizer(corpus, CHATML_TOKENS + TOKENS, TIMES + SENTENCE_TIMES, PHRASES + SENTENCE)
    patches = {"patch_size": PATCH_SIZE, "merge_size": 2, "temporal_patch_size": 2, "size": SIZE}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**patches),
        chat_template=chat_template(MARKS),
    )
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": MROPE_SECTION}
    config = Qwen2_5_VLConfig(
        text_config=text_part(tokenizer, rope_parameters=rope),
        vision_config={
            **VISION_TOWER,
            "temporal_patch_size": 2,
            "intermediate_size": 192,
            "tokens_per_second": 2,
            # A tiny frame is more than one window, so attention within windows differs from full attention.
            "window_size": 4 * PATCH_SIZE,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=True,
        **token_ids(tokenizer),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor
