"""The configuration of a SpaceVLLM checkpoint on Qwen2.5-VL."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen2_5_VLConfig

from ...modeling.configuration import SpaceVLLMConfigMixin


@strict
class SpaceVLLMQwen2_5_VLConfig(SpaceVLLMConfigMixin, Qwen2_5_VLConfig):
    """SpaceVLLM on Qwen2.5-VL."""

    model_type = "spacevllm_qwen2_5_vl"
    staq_token_id: int | None = None
    grounding: dict | None = None
    preprocessing: dict | None = None
