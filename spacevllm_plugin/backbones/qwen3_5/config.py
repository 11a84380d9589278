"""The configuration of a SpaceVLLM checkpoint on Qwen3.5."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3_5Config

from ...modeling.configuration import SpaceVLLMConfigMixin


@strict
class SpaceVLLMQwen3_5Config(SpaceVLLMConfigMixin, Qwen3_5Config):
    """SpaceVLLM on Qwen3.5."""

    model_type = "spacevllm_qwen3_5"
    staq_token_id: int | None = None
    grounding: dict | None = None
    preprocessing: dict | None = None
