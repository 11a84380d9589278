"""A tiny Qwen3.5-MoE: the dense one's layers, with experts."""

from collections.abc import Iterable

from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5Tokenizer,
)

from ..qwen.tiny import MARKS, TOKENS, qwen3_processor, qwen3_tower, token_ids
from ..qwen3_5.tiny import MIXED, ROPE
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


EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 96,
}


def build(corpus: Iterable[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The stock model and its processor; the tokenizer is trained on the corpus."""
    thought = [word.strip() for word in SPEC.thought_words]
    tokenizer = train_tokenizer(corpus, CHATML_TOKENS + TOKENS, TIMES, PHRASES + STAMPS + thought, Qwen3_5Tokenizer)
    tower = qwen3_tower(merge_size=2)
    text = text_part(tokenizer, pad_token_id=None, rope_parameters=ROPE, **MIXED, **EXPERTS)
    del text["intermediate_size"]  # no layer is without experts
    config = Qwen3_5MoeConfig(text_config=text, vision_config=tower, tie_word_embeddings=True, **token_ids(tokenizer))
    model = Qwen3_5MoeForConditionalGeneration(config)
    sharpen_attention(model, QK_NORM - 1)  # its norms add one to their weights
    return model, qwen3_processor(tokenizer, tower, chat_template(MARKS, SPEC.empty_thought))
