"""Qwen2-VL."""

from spacevllm_plugin.backbones.spec import BackboneSpec


SPEC = BackboneSpec(
    name="qwen2_vl",
    package=__package__,
    title="Qwen2-VL",
    template="spacevllm_qwen2_vl",
    config="config:SpaceVLLMQwen2VLConfig",
    model="model:SpaceVLLMQwen2VLForConditionalGeneration",
    prompter="prompter:Qwen2VLPrompter",
    tiny="tiny:build",
    processor_class="Qwen2VLProcessor",
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    special_tokens=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    default_system="You are a helpful assistant.",
    hub_ids={"SpaceVLLM-Qwen2-VL-2B": "Qwen/Qwen2-VL-2B-Instruct"},
    mrope=True,
    temporal_patch_size=2,
)
