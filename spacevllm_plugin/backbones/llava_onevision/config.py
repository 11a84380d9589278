"""The configuration of a SpaceVLLM checkpoint on LLaVA-OneVision / LLaVA-Video."""

from huggingface_hub.dataclasses import strict
from transformers import LlavaOnevisionConfig

from ...modeling.configuration import SpaceVLLMConfigMixin


@strict
class SpaceVLLMLlavaOnevisionConfig(SpaceVLLMConfigMixin, LlavaOnevisionConfig):
    """SpaceVLLM on LLaVA-OneVision / LLaVA-Video."""

    model_type = "spacevllm_llava_onevision"
    staq_token_id: int | None = None
    grounding: dict | None = None
    preprocessing: dict | None = None
