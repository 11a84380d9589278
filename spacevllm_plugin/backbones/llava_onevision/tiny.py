"""A tiny LLaVA-OneVision."""

from collections.abc import Iterable

from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from ..tiny import (
    CHATML_TOKENS,
    FRAME_SIZE,
    GRID_SIZE,
    HALF,
    PHRASES,
    ROPE_THETA,
    SENTENCE,
    SENTENCE_TIMES,
    TIMES,
    VISION,
    chat_template,
    text_part,
    train_tokenizer,
)


LLAVA_TOKENS = ("<image>", "<video>")
LLAVA_MARKS = {"image": r"<image>\n", "video": r"<video>\n"}


def build(corpus: Iterable[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The stock model and its processor; the tokenizer is trained on the corpus."""
    tokenizer = train_tokenizer(corpus, CHATML_TOKENS + LLAVA_TOKENS, TIMES + SENTENCE_TIMES, PHRASES + SENTENCE)
    pixels = {"size": {"height": FRAME_SIZE, "width": FRAME_SIZE}, "image_mean": HALF, "image_std": HALF}
    pinpoints = [[FRAME_SIZE, FRAME_SIZE]]
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(**pixels, image_grid_pinpoints=pinpoints),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**pixels),
        num_image_tokens=GRID_SIZE**2,
        vision_feature_select_strategy="full",
        chat_template=chat_template(LLAVA_MARKS),
    )
    config = LlavaOnevisionConfig(
        text_config=text_part(
            tokenizer, model_type="qwen2", rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA}
        ),
        vision_config={
            **VISION,
            "model_type": "siglip_vision_model",
            "image_size": FRAME_SIZE,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vision_use_head": False,
        },
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=pinpoints,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=True,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor
