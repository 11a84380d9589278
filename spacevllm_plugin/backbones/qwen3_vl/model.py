"""SpaceVLLM on Qwen3-VL: native timestamps, `<1.5 seconds>` before every frame, one query after it."""

from transformers import Qwen3VLForConditionalGeneration

from ..qwen.model import SpaceVLLMQwenDeepstackMixin
from .config import SpaceVLLMQwen3VLConfig


class SpaceVLLMQwen3VLForConditionalGeneration(SpaceVLLMQwenDeepstackMixin, Qwen3VLForConditionalGeneration):
    """Qwen3-VL with queries and a space decoder."""

    config_class = SpaceVLLMQwen3VLConfig
    config: SpaceVLLMQwen3VLConfig
    one_sentence = None
