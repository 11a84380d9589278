"""The configuration of a SpaceVLLM checkpoint on Qwen3-VL."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3VLConfig

from ...modeling.configuration import SpaceVLLMConfigMixin


@strict
class SpaceVLLMQwen3VLConfig(SpaceVLLMConfigMixin, Qwen3VLConfig):
    """SpaceVLLM on Qwen3-VL."""

    model_type = "spacevllm_qwen3_vl"
    staq_token_id: int | None = None
    grounding: dict | None = None
    preprocessing: dict | None = None
