"""Hook on `model.model_utils.visual`: which parts of our models are vision, projector and language."""

from types import ModuleType

from ..backbones import registry
from ..modeling.grounding_model import HEAD_MODULES


def install(module: ModuleType) -> None:
    """Register our model types; LoRA stays away from the heads, which train in full."""
    for spec in registry.usable():
        parts = spec.composite or module.COMPOSITE_MODELS[spec.name]
        module._register_composite_model(
            model_type=spec.model_type,
            projector_keys=parts.projector_keys,
            vision_model_keys=parts.vision_model_keys,
            language_model_keys=parts.language_model_keys,
            lora_conflict_keys=[*parts.lora_conflict_keys, *HEAD_MODULES],
        )
