"""Qwen3-VL, mixtures of experts."""

from ..spec import BackboneSpec


SPEC = BackboneSpec(
    name="qwen3_vl_moe",
    package=__package__,
    title="Qwen3-VL, mixture of experts",
    template="spacevllm_qwen3_vl_moe",
    config="config:SpaceVLLMQwen3VLMoeConfig",
    model="model:SpaceVLLMQwen3VLMoeForConditionalGeneration",
    prompter="prompter:Qwen3VLMoePrompter",
    tiny="tiny:build",
    processor_class="Qwen3VLProcessor",
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    special_tokens=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    frame_tokens=lambda pixels: pixels // 32**2 + 1 + 2,
    hub_ids={
        "SpaceVLLM-Qwen3-VL-30B-A3B": "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "SpaceVLLM-Qwen3-VL-235B-A22B": "Qwen/Qwen3-VL-235B-A22B-Instruct",
    },
    mrope=True,
    expert_block="transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe:Qwen3VLMoeTextSparseMoeBlock",
    temporal_patch_size=2,
    limits=(
        "two frames share a query",
        "LoRA reaches the attention layers, not the experts and not the router",
        "QLoRA leaves the experts unquantised: 30B takes some 60 GB all the same",
    ),
)
