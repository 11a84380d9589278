"""SpaceVLLM on Qwen3-VL: native timestamps, `<1.5 seconds>` before every frame, one query after it."""

from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from ..qwen.model import SpaceVLLMQwenMixin
from .config import SpaceVLLMQwen3VLConfig


class SpaceVLLMQwen3VLForConditionalGeneration(SpaceVLLMQwenMixin, Qwen3VLForConditionalGeneration):
    """Qwen3-VL with queries and a space decoder."""

    config_class = SpaceVLLMQwen3VLConfig
    config: SpaceVLLMQwen3VLConfig

    def deepstack_inputs(self, output: Any, visual_mask: torch.Tensor, order: torch.Tensor) -> dict[str, Any]:
        """The vision tower's intermediate features, which Qwen3-VL adds in its first layers."""
        return {
            "visual_pos_masks": visual_mask,
            "deepstack_visual_embeds": [features.to(order.device)[order] for features in output.deepstack_features],
        }

    def get_rope_index(
        self,
        input_ids: torch.Tensor,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        staq_layout: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """M-RoPE positions, (3, batch, sequence), and deltas, (batch, 1); text separates the frames as upstream."""
        types = torch.zeros_like(input_ids)
        types[input_ids == self.config.image_token_id] = 1
        types[input_ids == self.config.video_token_id] = 2
        return self.model.get_rope_index(
            input_ids,
            mm_token_type_ids=types,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            attention_mask=attention_mask,
        )
