"""Qwen3-VL."""

from ..spec import BackboneSpec


SPEC = BackboneSpec(
    name="qwen3_vl",
    package=__package__,
    title="Qwen3-VL, native timestamps",
    template="spacevllm_qwen3_vl",
    config="config:SpaceVLLMQwen3VLConfig",
    model="model:SpaceVLLMQwen3VLForConditionalGeneration",
    prompter="prompter:Qwen3VLPrompter",
    tiny="tiny:build",
    processor_class="Qwen3VLProcessor",
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    special_tokens=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    frame_tokens=lambda pixels: pixels // 32**2 + 1 + 2,
    hub_ids={
        "SpaceVLLM-Qwen3-VL-2B": "Qwen/Qwen3-VL-2B-Instruct",
        "SpaceVLLM-Qwen3-VL-4B": "Qwen/Qwen3-VL-4B-Instruct",
        "SpaceVLLM-Qwen3-VL-8B": "Qwen/Qwen3-VL-8B-Instruct",
    },
    mrope=True,
    temporal_patch_size=2,
    limits=("two frames share a query",),
)
