"""The configuration of a SpaceVLLM checkpoint on Qwen2-VL."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen2VLConfig

from spacevllm_plugin.modeling.configuration import SpaceVLLMConfigMixin


@strict
class SpaceVLLMQwen2VLConfig(SpaceVLLMConfigMixin, Qwen2VLConfig):
    """SpaceVLLM on Qwen2-VL."""

    model_type = "spacevllm_qwen2_vl"
    staq_token_id: int | None = None
    grounding: dict | None = None
    preprocessing: dict | None = None
