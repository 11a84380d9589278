"""A tiny Qwen3-VL."""

from collections.abc import Iterable

from transformers import PreTrainedModel, ProcessorMixin, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from ..qwen.tiny import INTERLEAVED_ROPE, MARKS, TOKENS, qwen3_processor, qwen3_tower, token_ids
from ..tiny import CHATML_TOKENS, PHRASES, STAMPS, TIMES, chat_template, sharpen_attention, text_part, train_tokenizer


def build(corpus: Iterable[str], merge_size: int = 2) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The stock model and its processor.

    Args:
        corpus: The text that the tokenizer is trained on.
        merge_size: 1 or 2: patches that a visual token merges along each side.
    """
    tokenizer = train_tokenizer(corpus, CHATML_TOKENS + TOKENS, TIMES, PHRASES + STAMPS)
    tower = qwen3_tower(merge_size)
    config = Qwen3VLConfig(
        text_config=text_part(tokenizer, head_dim=32, rope_parameters=INTERLEAVED_ROPE),
        vision_config={**tower, "deepstack_visual_indexes": [0]},
        tie_word_embeddings=True,
        **token_ids(tokenizer),
    )
    model = Qwen3VLForConditionalGeneration(config)
    sharpen_attention(model)
    return model, qwen3_processor(tokenizer, tower, chat_template(MARKS))
