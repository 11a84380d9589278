"""The configuration of a SpaceVLLM checkpoint on Qwen3-VL-MoE."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3VLMoeConfig

from ...modeling.configuration import SpaceVLLMConfigMixin


@strict
class SpaceVLLMQwen3VLMoeConfig(SpaceVLLMConfigMixin, Qwen3VLMoeConfig):
    """SpaceVLLM on Qwen3-VL-MoE."""

    model_type = "spacevllm_qwen3_vl_moe"
    staq_token_id: int | None = None
    grounding: dict | None = None
    preprocessing: dict | None = None
