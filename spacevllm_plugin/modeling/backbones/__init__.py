"""The backbones; importing this package registers them with transformers' auto classes."""

from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from .llava_onevision import SpaceVLLMLlavaOnevisionForConditionalGeneration
from .qwen2_5_vl import SpaceVLLMQwen2_5_VLForConditionalGeneration
from .qwen3_vl import SpaceVLLMQwen3VLForConditionalGeneration


MODEL_CLASSES = {
    model_class.config_class.model_type: model_class
    for model_class in (
        SpaceVLLMLlavaOnevisionForConditionalGeneration,
        SpaceVLLMQwen3VLForConditionalGeneration,
        SpaceVLLMQwen2_5_VLForConditionalGeneration,
    )
}

for _model_type, _model_class in MODEL_CLASSES.items():
    AutoConfig.register(_model_type, _model_class.config_class, exist_ok=True)
    AutoModelForImageTextToText.register(_model_class.config_class, _model_class, exist_ok=True)
    # Checkpoints of the hub have older names for some weights; transformers knows the new ones by model type.
    _renamings = get_checkpoint_conversion_mapping(_model_type.removeprefix("spacevllm_"))
    if _renamings is not None:
        register_checkpoint_conversion_mapping(_model_type, _renamings, overwrite=True)
