"""Qwen3.5, mixtures of experts."""

from ..spec import BackboneSpec


SPEC = BackboneSpec(
    name="qwen3_5_moe",
    package=__package__,
    title="Qwen3.5, mixture of experts",
    template="spacevllm_qwen3_5_moe",
    config="config:SpaceVLLMQwen3_5MoeConfig",
    model="model:SpaceVLLMQwen3_5MoeForConditionalGeneration",
    prompter="prompter:Qwen3_5MoePrompter",
    tiny="tiny:build",
    processor_class="Qwen3VLProcessor",
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    special_tokens=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    thought_words=("<think>\n", "\n</think>\n\n"),
    frame_tokens=lambda pixels: pixels // 32**2 + 1 + 2,
    hub_ids={
        "SpaceVLLM-Qwen3.5-35B-A3B": "Qwen/Qwen3.5-35B-A3B",
        "SpaceVLLM-Qwen3.5-122B-A10B": "Qwen/Qwen3.5-122B-A10B",
        "SpaceVLLM-Qwen3.5-397B-A17B": "Qwen/Qwen3.5-397B-A17B",
    },
    mrope=True,
    expert_block="transformers.models.qwen3_5_moe.modeling_qwen3_5_moe:Qwen3_5MoeSparseMoeBlock",
    temporal_patch_size=2,
    limits=(
        "two frames share a query",
        "its multi-token prediction head is neither trained nor saved",
        "LoRA reaches what every token goes through, not the experts that are chosen and not the router",
        "QLoRA leaves these experts unquantised: 35B takes some 65 GB all the same",
    ),
    transformers=">=5.2",
)
