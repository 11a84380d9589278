"""SpaceVLLM on Qwen3.5-MoE: Qwen3.5, but each token of the language model goes through a few of many experts."""

from transformers import Qwen3_5MoeForConditionalGeneration

from ..qwen.linear_attention import SpaceVLLMQwenLinearMixin
from ..router import RouterLossMixin
from .config import SpaceVLLMQwen3_5MoeConfig


class SpaceVLLMQwen3_5MoeForConditionalGeneration(
    RouterLossMixin, SpaceVLLMQwenLinearMixin, Qwen3_5MoeForConditionalGeneration
):
    """Qwen3.5-MoE with queries and a space decoder."""

    config_class = SpaceVLLMQwen3_5MoeConfig
    config: SpaceVLLMQwen3_5MoeConfig
