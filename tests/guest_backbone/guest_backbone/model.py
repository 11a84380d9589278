"""SpaceVLLM on Qwen2-VL."""

from typing import Any

import torch
from transformers import Qwen2VLForConditionalGeneration

from spacevllm_plugin.backbones.qwen.model import SpaceVLLMQwenMixin

from .config import SpaceVLLMQwen2VLConfig


class SpaceVLLMQwen2VLForConditionalGeneration(SpaceVLLMQwenMixin, Qwen2VLForConditionalGeneration):
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
        types = torch.zeros_like(input_ids)
        types[input_ids == self.config.image_token_id] = 1
        types[input_ids == self.config.video_token_id] = 2
        if video_grid_thw is not None:
            video_grid_thw = video_grid_thw.repeat_interleave(video_grid_thw[:, 0], dim=0)
            video_grid_thw[:, 0] = 1

        return self.model.get_rope_index(
            input_ids,
            mm_token_type_ids=types,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            attention_mask=attention_mask,
        )
