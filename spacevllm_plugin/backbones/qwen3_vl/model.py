"""SpaceVLLM on Qwen3-VL: native timestamps, `<1.5 seconds>` before every frame, one query after it."""

from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from ..qwen.model import SpaceVLLMQwen3Mixin
from .config import SpaceVLLMQwen3VLConfig


class SpaceVLLMQwen3VLForConditionalGeneration(SpaceVLLMQwen3Mixin, Qwen3VLForConditionalGeneration):
    """Qwen3-VL with queries and a space decoder."""

    config_class = SpaceVLLMQwen3VLConfig
    config: SpaceVLLMQwen3VLConfig

    def deepstack_inputs(self, output: Any, visual_mask: torch.Tensor, order: torch.Tensor) -> dict[str, Any]:
        """The vision tower's intermediate features, which Qwen3-VL adds in its first layers."""
        return {
            "visual_pos_masks": visual_mask,
            "deepstack_visual_embeds": [features.to(order.device)[order] for features in output.deepstack_features],
        }
