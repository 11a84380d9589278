"""SpaceVLLM on Qwen3-VL-MoE: Qwen3-VL, but each token of the language model goes through a few of many experts."""

from transformers import Qwen3VLMoeForConditionalGeneration

from ..qwen.model import SpaceVLLMQwenDeepstackMixin
from ..router import RouterLossMixin
from .config import SpaceVLLMQwen3VLMoeConfig


class SpaceVLLMQwen3VLMoeForConditionalGeneration(
    RouterLossMixin, SpaceVLLMQwenDeepstackMixin, Qwen3VLMoeForConditionalGeneration
):
    """Qwen3-VL-MoE with queries and a space decoder."""

    config_class = SpaceVLLMQwen3VLMoeConfig
    config: SpaceVLLMQwen3VLMoeConfig
    one_sentence = None
