"""SpaceVLLM on InternVL: every frame one tile, whose patches are merged four by four."""

from typing import Any

import torch
from transformers import InternVLForConditionalGeneration

from ...modeling.grounding_model import SpaceVLLMMixin
from ...modeling.layout import Layout, given_once, moved
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
        if visual.get("media") is not None:
            features = features[given_once(layout.queries_per_medium(), visual["media"].tolist())[1]]

        features = features.flatten(0, 1)
        mask = self._is_visual(input_ids)
        if int(mask.sum()) != features.shape[0]:
            raise ValueError(f"{int(mask.sum())} visual tokens in the prompt but {features.shape[0]} features.")

        features = features.to(inputs_embeds)
        return inputs_embeds.masked_scatter(moved(mask, features.device)[..., None], features), {}
