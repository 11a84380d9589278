"""Qwen3.5, dense."""

from ..spec import BackboneSpec


SPEC = BackboneSpec(
    name="qwen3_5",
    package=__package__,
    title="Qwen3.5, native timestamps",
    template="spacevllm_qwen3_5",
    config="config:SpaceVLLMQwen3_5Config",
    model="model:SpaceVLLMQwen3_5ForConditionalGeneration",
    prompter="prompter:Qwen3_5Prompter",
    tiny="tiny:build",
    processor_class="Qwen3VLProcessor",
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    special_tokens=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    thought_words=("<think>\n", "\n</think>\n\n"),
    frame_tokens=lambda pixels: pixels // 32**2 + 1 + 2,
    hub_ids={
        "SpaceVLLM-Qwen3.5-0.8B": "Qwen/Qwen3.5-0.8B",
        "SpaceVLLM-Qwen3.5-2B": "Qwen/Qwen3.5-2B",
        "SpaceVLLM-Qwen3.5-4B": "Qwen/Qwen3.5-4B",
        "SpaceVLLM-Qwen3.5-9B": "Qwen/Qwen3.5-9B",
        "SpaceVLLM-Qwen3.5-27B": "Qwen/Qwen3.5-27B",
    },
    mrope=True,
    temporal_patch_size=2,
    # As for Qwen2.5-VL: two frames are one temporal patch, so there is less to be seen at once.
    quickstart=("max_steps=1000",),
    limits=("two frames share a query", "its multi-token prediction head is neither trained nor saved"),
    transformers=">=5.2",
)
