"""SpaceVLLM on Qwen3.5: Qwen3-VL's prompts and positions; most layers keep a state instead of keys and values."""

from transformers import Qwen3_5ForConditionalGeneration

from ..qwen.model import SpaceVLLMQwen3Mixin
from .config import SpaceVLLMQwen3_5Config


class SpaceVLLMQwen3_5ForConditionalGeneration(SpaceVLLMQwen3Mixin, Qwen3_5ForConditionalGeneration):
    """Qwen3.5 with queries and a space decoder."""

    config_class = SpaceVLLMQwen3_5Config
    config: SpaceVLLMQwen3_5Config
