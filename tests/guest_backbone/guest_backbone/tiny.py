"""A tiny Qwen2-VL."""

from collections.abc import Iterable

from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from spacevllm_plugin.backbones.qwen.tiny import MARKS, MROPE_SECTION, SIZE, TOKENS, token_ids
from spacevllm_plugin.backbones.tiny import (
    CHATML_TOKENS,
    PATCH_SIZE,
    PHRASES,
    ROPE_THETA,
    SENTENCE,
    SENTENCE_TIMES,
    TEXT,
    TIMES,
    chat_template,
    text_part,
    train_tokenizer,
)


def build(corpus: Iterable[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The stock model and its processor; the tokenizer is trained on the corpus."""
    tokenizer = train_tokenizer(corpus, CHATML_TOKENS + TOKENS, TIMES + SENTENCE_TIMES, PHRASES + SENTENCE)
    patches = {"patch_size": PATCH_SIZE, "merge_size": 2, "temporal_patch_size": 2, "size": SIZE}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**patches),
        chat_template=chat_template(MARKS),
    )
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": MROPE_SECTION}
    vision = {"depth": 2, "embed_dim": 64, "num_heads": 4, "patch_size": PATCH_SIZE, "temporal_patch_size": 2}
    config = Qwen2VLConfig(
        text_config=text_part(tokenizer, rope_parameters=rope),
        vision_config={**vision, "mlp_ratio": 3, "spatial_merge_size": 2, "hidden_size": TEXT["hidden_size"]},
        tie_word_embeddings=True,
        **token_ids(tokenizer),
    )
    return Qwen2VLForConditionalGeneration(config), processor
