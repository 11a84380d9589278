"""SpaceVLLM on LLaVA-OneVision / LLaVA-Video, the paper's base: one query after every frame's pooled tokens."""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration

from ...modeling.configuration import GroundingOptions
from ...modeling.grounding_model import SpaceVLLMMixin
from ...modeling.layout import Layout, shown
from .config import SpaceVLLMLlavaOnevisionConfig


class SpaceVLLMLlavaOnevisionForConditionalGeneration(SpaceVLLMMixin, LlavaOnevisionForConditionalGeneration):
    """LLaVA-OneVision with queries and a space decoder.

    `pixel_values` holds one picture for every query, images and frames alike, in order of appearance:
    (total_queries, 3, height, width). An image is seen whole, as one tile, so that its tokens form one grid.
    """

    config_class = SpaceVLLMLlavaOnevisionConfig
    config: SpaceVLLMLlavaOnevisionConfig
    one_sentence = None
    # Upstream names a layer class that this model does not have, which FSDP refuses.
    _no_split_modules = ["Qwen2DecoderLayer", "SiglipEncoderLayer"]
    visual_inputs = ("pixel_values", "media")
    # The language model's as 5.5 saved them, and the vision tower's as 5.8 does.
    weight_names = {
        r"^model\.language_model\.model\.": "model.language_model.",
        r"vision_tower\.(?!vision_model\.)": "vision_tower.vision_model.",
    }
    per_query_inputs = ("staq_layout", "pixel_values")

    @property
    def unread_modules(self) -> list[torch.nn.Module]:
        """See `SpaceVLLMMixin`: what the vision tower has behind the states that are taken from it."""
        tower, layers = self.model.vision_tower, self.config.vision_feature_layer
        tower = getattr(tower, "vision_model", tower)
        states = len(tower.encoder.layers) + 1
        last = max(layer % states for layer in ([layers] if isinstance(layers, int) else layers))
        return [tower.post_layernorm, *tower.encoder.layers[last:]]

    def embed_visual(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, layout: Layout, **visual: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """See `SpaceVLLMMixin`."""
        grids = shown(self._encode(visual["pixel_values"]), layout, visual.get("media"))
        is_image = (layout.frame_index < 0).tolist()
        is_last = (layout.frame_index == layout.num_frames - 1).tolist()
        newline = self.model.image_newline.to(grids)
        newline_per_row = GroundingOptions(**(self.config.grounding or {})).frame_tokens == "llava_video"
        parts = []
        for grid, image, last in zip(grids, is_image, is_last):
            if image:
                parts += [grid.flatten(0, 1), newline[None]]
            elif newline_per_row:
                grid = F.avg_pool2d(grid.permute(2, 0, 1), 2).permute(1, 2, 0)
                parts.append(torch.cat([grid, newline.expand(grid.shape[0], 1, -1)], dim=1).flatten(0, 1))
            else:
                size = [-(-side // 2) for side in grid.shape[:2]]
                pooled = F.interpolate(grid.permute(2, 0, 1)[None], size=size, mode="bilinear")
                parts += [pooled[0].permute(1, 2, 0).flatten(0, 1)] + [newline[None]] * last

        return self.put_visual(input_ids, inputs_embeds, torch.cat(parts)), {}

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Vision tower and projector: (n, 3, height, width) -> (n, rows, columns, d)."""
        tower = self.model.vision_tower
        states = tower(pixel_values.to(tower.dtype), output_hidden_states=True, return_dict=True).hidden_states
        layers = self.config.vision_feature_layer
        if isinstance(layers, int):
            selected = states[layers]
        else:
            selected = torch.cat([states[layer] for layer in layers], dim=-1)

        if self.config.vision_feature_select_strategy == "default":
            selected = selected[:, 1:]

        features = self.model.multi_modal_projector(selected)
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        return features.unflatten(1, (side, side))

    def prepare_inputs_for_generation(
        self,
        *args: Any,
        staq_layout: torch.Tensor | None = None,
        media: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict:
        """Keeps the layout in the prefill; upstream drops what it does not know from none of the later steps."""
        prepared = super().prepare_inputs_for_generation(*args, **kwargs)
        return {**prepared, "staq_layout": staq_layout, "media": media}
