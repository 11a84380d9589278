"""Hook on `model.model_utils.visual`: which parts of our models are vision, projector and language."""

from types import ModuleType

from ..modeling.grounding_model import HEAD_MODULES


# spacevllm model type -> the backbone's own; LLaVA-OneVision is not in LLaMA-Factory's list.
DERIVED = {"spacevllm_qwen3_vl": "qwen3_vl", "spacevllm_qwen2_5_vl": "qwen2_5_vl"}


def install(module: ModuleType) -> None:
    """Register our model types; LoRA stays away from the heads, which train in full."""
    for model_type, backbone in DERIVED.items():
        known = module.COMPOSITE_MODELS[backbone]
        module._register_composite_model(
            model_type=model_type,
            projector_keys=known.projector_keys,
            vision_model_keys=known.vision_model_keys,
            language_model_keys=known.language_model_keys,
            lora_conflict_keys=[*known.lora_conflict_keys, *HEAD_MODULES],
        )

    module._register_composite_model(
        model_type="spacevllm_llava_onevision",
        projector_keys=["model.multi_modal_projector"],
        lora_conflict_keys=list(HEAD_MODULES),
    )
