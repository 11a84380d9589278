"""SpaceVLLM on InternVL: every frame one tile, whose patches are merged four by four."""

from typing import Any

import torch
from transformers import InternVLForConditionalGeneration

from ...modeling.grounding_model import SpaceVLLMMixin
from ...modeling.layout import Layout, shown
from .config import SpaceVLLMInternVLConfig


class SpaceVLLMInternVLForConditionalGeneration(SpaceVLLMMixin, InternVLForConditionalGeneration):
    """InternVL with queries and a space decoder.

    `pixel_values` holds one tile for every query, images and frames alike, in order of appearance:
    (total_queries, 3, height, width). A tile's tokens are the grid, row by row, that pixel shuffle leaves of its patches.
    """

    config_class = SpaceVLLMInternVLConfig
    config: SpaceVLLMInternVLConfig
    one_sentence = None
    visual_inputs = ("pixel_values", "media")
    per_query_inputs = ("staq_layout", "pixel_values")

    def embed_visual(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, layout: Layout, **visual: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """See `SpaceVLLMMixin`."""
        features = self.model.get_image_features(visual["pixel_values"], return_dict=True).pooler_output
        features = shown(features, layout, visual.get("media")).flatten(0, 1)
        return self.put_visual(input_ids, inputs_embeds, features), {}
