"""The configuration of a SpaceVLLM checkpoint on Qwen3.5-MoE."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3_5MoeConfig

from ...modeling.configuration import SpaceVLLMConfigMixin


@strict
class SpaceVLLMQwen3_5MoeConfig(SpaceVLLMConfigMixin, Qwen3_5MoeConfig):
    """SpaceVLLM on Qwen3.5-MoE."""

    model_type = "spacevllm_qwen3_5_moe"
    staq_token_id: int | None = None
    grounding: dict | None = None
    preprocessing: dict | None = None
