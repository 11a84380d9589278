"""SpaceVLLM on Qwen2-VL."""

from typing import Any

import torch
from transformers import Qwen2VLForConditionalGeneration

from spacevllm_plugin.backbones.qwen.model import SpaceVLLMQwen3Mixin

from .config import SpaceVLLMQwen2VLConfig


class SpaceVLLMQwen2VLForConditionalGeneration(SpaceVLLMQwen3Mixin, Qwen2VLForConditionalGeneration):
    """Qwen2-VL with queries and a space decoder."""

    config_class = SpaceVLLMQwen2VLConfig
    config: SpaceVLLMQwen2VLConfig

    def get_rope_index(
        self,
        input_ids: torch.Tensor,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        staq_layout: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """M-RoPE positions, (3, batch, sequence), and deltas, (batch, 1); each frame is a block of its own."""
        if video_grid_thw is not None:
            video_grid_thw = video_grid_thw.repeat_interleave(video_grid_thw[:, 0], dim=0)
            video_grid_thw[:, 0] = 1

        return super().get_rope_index(input_ids, image_grid_thw, video_grid_thw, attention_mask, staq_layout, **kwargs)
