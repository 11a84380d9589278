"""SpaceVLLM on Qwen3.5: Qwen3-VL's prompts and positions; most layers keep a state instead of keys and values."""

from transformers import Qwen3_5ForConditionalGeneration

from ..qwen.linear_attention import SpaceVLLMQwenLinearMixin
from .config import SpaceVLLMQwen3_5Config


class SpaceVLLMQwen3_5ForConditionalGeneration(SpaceVLLMQwenLinearMixin, Qwen3_5ForConditionalGeneration):
    """Qwen3.5 with queries and a space decoder."""

    config_class = SpaceVLLMQwen3_5Config
    config: SpaceVLLMQwen3_5Config
