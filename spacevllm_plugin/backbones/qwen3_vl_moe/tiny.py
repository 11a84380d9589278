"""A tiny Qwen3-VL-MoE."""

from collections.abc import Iterable

from transformers import PreTrainedModel, ProcessorMixin, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from ..qwen.tiny import INTERLEAVED_ROPE, MARKS, TOKENS, qwen3_processor, qwen3_tower, token_ids
from ..tiny import CHATML_TOKENS, PHRASES, STAMPS, TIMES, chat_template, sharpen_attention, text_part, train_tokenizer


# Published files hold the experts' matrices transposed, which shows in their shapes alone: none may be square, so
# neither a width nor twice a width may be that of the model.
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}


def build(corpus: Iterable[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The stock model and its processor; the tokenizer is trained on the corpus."""
    tokenizer = train_tokenizer(corpus, CHATML_TOKENS + TOKENS, TIMES, PHRASES + STAMPS)
    tower = qwen3_tower(merge_size=2)
    config = Qwen3VLMoeConfig(
        text_config=text_part(tokenizer, head_dim=32, rope_parameters=INTERLEAVED_ROPE, **EXPERTS),
        vision_config={**tower, "deepstack_visual_indexes": [0]},
        tie_word_embeddings=True,
        **token_ids(tokenizer),
    )
    model = Qwen3VLMoeForConditionalGeneration(config)
    sharpen_attention(model)
    return model, qwen3_processor(tokenizer, tower, chat_template(MARKS))
