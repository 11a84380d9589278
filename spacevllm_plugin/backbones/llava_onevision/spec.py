"""LLaVA-OneVision / LLaVA-Video, the paper's base."""

from ..spec import BackboneSpec, Composite


SPEC = BackboneSpec(
    name="llava_onevision",
    package=__package__,
    title="LLaVA-OneVision / LLaVA-Video (the paper's)",
    template="spacevllm",
    config="config:SpaceVLLMLlavaOnevisionConfig",
    model="model:SpaceVLLMLlavaOnevisionForConditionalGeneration",
    prompter="prompter:LlavaOnevisionPrompter",
    tiny="tiny:build",
    processor_class="LlavaOnevisionProcessor",
    image_token="<image>",
    video_token="<video>",
    default_system="You are a helpful assistant.",
    frame_tokens=lambda pixels: 14 * 14 + 1,
    hub_ids={
        "SpaceVLLM-LLaVA-OneVision-0.5B": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "SpaceVLLM-LLaVA-OneVision-7B": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    },
    composite=Composite(projector_keys=("model.multi_modal_projector",)),
    limits=("images are seen whole, as one tile, without high-resolution crops",),
)
