"""A tiny Qwen3.5."""

from collections.abc import Iterable

from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5Tokenizer,
)

from ..qwen.tiny import INTERLEAVED_ROPE, MARKS, TOKENS, qwen3_processor, qwen3_tower, token_ids
from ..tiny import (
    CHATML_TOKENS,
    PHRASES,
    QK_NORM,
    STAMPS,
    TIMES,
    chat_template,
    sharpen_attention,
    text_part,
    train_tokenizer,
)
from .spec import SPEC


# Half of each head turns with the position: as many frequencies as the other tiny ones have.
ROPE = {**INTERLEAVED_ROPE, "partial_rotary_factor": 0.5}
# A state takes a CPU many times as long as attention does, for each of its heads: published models have three such layers
# to one with attention, and 16 key heads.
MIXED = {
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}


def build(corpus: Iterable[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The stock model and its processor; the tokenizer is trained on the corpus."""
    thought = [word.strip() for word in SPEC.thought_words]
    tokenizer = train_tokenizer(corpus, CHATML_TOKENS + TOKENS, TIMES, PHRASES + STAMPS + thought, Qwen3_5Tokenizer)
    tower = qwen3_tower(merge_size=2)
    config = Qwen3_5Config(
        # Without an id for padding, as published: its row of the embedding is not zero.
        text_config=text_part(tokenizer, pad_token_id=None, rope_parameters=ROPE, **MIXED),
        vision_config=tower,
        tie_word_embeddings=True,
        **token_ids(tokenizer),
    )
    model = Qwen3_5ForConditionalGeneration(config)
    sharpen_attention(model, QK_NORM - 1)  # its norms add one to their weights
    return model, qwen3_processor(tokenizer, tower, chat_template(MARKS, SPEC.empty_thought))
