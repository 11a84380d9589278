"""Qwen2.5-VL."""

from ..spec import BackboneSpec


SPEC = BackboneSpec(
    name="qwen2_5_vl",
    package=__package__,
    title="Qwen2.5-VL, real seconds in its positions",
    template="spacevllm_qwen2_5_vl",
    config="config:SpaceVLLMQwen2_5_VLConfig",
    model="model:SpaceVLLMQwen2_5_VLForConditionalGeneration",
    prompter="prompter:Qwen2_5VLPrompter",
    tiny="tiny:build",
    processor_class="Qwen2_5_VLProcessor",
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    special_tokens=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    default_system="You are a helpful assistant.",
    frame_tokens=lambda pixels: pixels // 28**2 + 1,
    hub_ids={
        "SpaceVLLM-Qwen2.5-VL-3B": "Qwen/Qwen2.5-VL-3B-Instruct",
        "SpaceVLLM-Qwen2.5-VL-7B": "Qwen/Qwen2.5-VL-7B-Instruct",
    },
    mrope=True,
    temporal_patch_size=2,
    # Two frames are one temporal patch in its tiny one, too: less is to be seen at once, so it takes more steps, which
    # cost less each.
    quickstart=("max_steps=1000",),
    not_for_engines="its positions are real seconds with a query at its frame's time, which no stock class counts so",
    limits=("two frames share a query",),
)
