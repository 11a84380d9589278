"""A tiny InternVL."""

from collections.abc import Iterable

from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from ..tiny import (
    CHATML_TOKENS,
    FRAME_SIZE,
    GRID_SIZE,
    HALF,
    PATCH_SIZE,
    PHRASES,
    ROPE_THETA,
    SENTENCE,
    SENTENCE_TIMES,
    TEXT,
    TIMES,
    VISION,
    chat_template,
    sharpen_attention,
    text_part,
    train_tokenizer,
)


INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
MARKS = {"image": r"<IMG_CONTEXT>\n", "video": r"<video>\n"}
FRAMES = [f"Frame{number}: " for number in range(1, 21)]
MERGED = 2  # patches that pixel shuffle merges along each side


def build(corpus: Iterable[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The stock model and its processor; the tokenizer is trained on the corpus."""
    phrases = PHRASES + SENTENCE + FRAMES
    tokenizer = train_tokenizer(corpus, CHATML_TOKENS, TIMES + SENTENCE_TIMES, phrases, **INTERNVL_TOKENS)
    pixels = {"size": {"height": FRAME_SIZE, "width": FRAME_SIZE}, "image_mean": HALF, "image_std": HALF}
    image_seq_length = (GRID_SIZE // MERGED) ** 2
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**pixels),
        image_seq_length=image_seq_length,
        chat_template=chat_template(MARKS),
    )
    config = InternVLConfig(
        text_config=text_part(
            tokenizer,
            model_type="qwen3",
            head_dim=32,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        ),
        vision_config={
            **VISION,
            "image_size": [FRAME_SIZE, FRAME_SIZE],
            "patch_size": [PATCH_SIZE, PATCH_SIZE],
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "attention_bias": True,
            "initializer_range": TEXT["initializer_range"],
            # A tenth, as published, leaves fresh layers without an effect that could be learned from.
            "layer_scale_init_value": 1.0,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=image_seq_length,
        downsample_ratio=1 / MERGED,
        tie_word_embeddings=True,
    )
    model = InternVLForConditionalGeneration(config)
    sharpen_attention(model)
    return model, processor
