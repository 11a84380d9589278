"""What the Qwen-VL backbones share."""

from typing import Any

import torch
from transformers.generation import GenerationMixin

from ...modeling.grounding_model import SpaceVLLMMixin, expect_features
from ...modeling.layout import Layout, given_once, moved
from ...modeling.prefix import Suffixes


class SpaceVLLMQwenMixin(SpaceVLLMMixin):
    """Patches of images and videos through one call of the vision tower, and M-RoPE positions."""

    visual_inputs = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "media")

    def embed_visual(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, layout: Layout, **visual: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """See `SpaceVLLMMixin`. One call for both kinds: under ZeRO-3 every rank must call the tower equally often."""
        pixels = [visual[name] for name in ("pixel_values", "pixel_values_videos") if visual[name] is not None]
        grids = torch.cat([visual[name] for name in ("image_grid_thw", "video_grid_thw") if visual[name] is not None])
        tower, places = self.model.visual, None
        if visual.get("media") is not None:
            sizes = grids.prod(dim=-1) // tower.spatial_merge_size**2
            first, places = given_once(sizes.tolist(), visual["media"].tolist())
            grids = grids[first]

        output = tower(torch.cat(pixels).to(tower.dtype), grid_thw=grids, return_dict=True)
        features = output.pooler_output
        given = len(features) if places is None else len(places)

        # The tower returns images first, then videos; the sequence may hold them in any order.
        image_mask = input_ids == self.config.image_token_id
        visual_mask = self._is_visual(input_ids)
        from_image = image_mask[visual_mask]
        expect_features(visual_mask, given)

        # The place among the features of each visual token: a stable sort brings the images' to the front.
        order = (~from_image).long().argsort(stable=True).argsort()
        order = order if places is None else places[order]
        visual_mask, order = (moved(found, inputs_embeds.device) for found in (visual_mask, order))
        features = features.to(inputs_embeds)[order]
        inputs_embeds = inputs_embeds.masked_scatter(visual_mask[..., None], features)
        return inputs_embeds, self.deepstack_inputs(output, visual_mask, order)

    def deepstack_inputs(self, output: Any, visual_mask: torch.Tensor, order: torch.Tensor) -> dict[str, Any]:
        """Further features that the language model takes; none but with a deepstack."""
        return {}

    def prefill_positions(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, staq_layout: torch.Tensor | None, **visual
    ) -> torch.Tensor | None:
        """See `SpaceVLLMMixin`."""
        if staq_layout is None:
            return None

        given = {
            "image_grid_thw": visual["image_grid_thw"],
            "video_grid_thw": visual["video_grid_thw"],
            "attention_mask": attention_mask,
            "staq_layout": staq_layout,
        }
        # Counted on the host: upstream asks for values in a loop.
        given = {name: value.cpu() for name, value in given.items() if value is not None}
        found = self.get_rope_index(input_ids.cpu(), **given)
        positions, self.model.rope_deltas = (moved(part, input_ids.device) for part in found)
        return positions

    def _prepare_position_ids_for_generation(
        self, inputs_tensor: torch.Tensor, model_kwargs: dict[str, Any]
    ) -> torch.Tensor:
        # Qwen's own method needs `mm_token_type_ids`; without them it silently falls back to text positions.
        text_positions = GenerationMixin._prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs)
        cache = model_kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() != 0:
            # The model's own are those of whatever it has read last, maybe for somebody else.
            deltas = cache.prefix.rope_delta if isinstance(cache, Suffixes) else self.model.rope_deltas
            return text_positions[None] + deltas.to(text_positions.device)

        visual = {name: model_kwargs.get(name) for name in self.visual_inputs}
        vision_positions = self.prefill_positions(
            model_kwargs.get("input_ids", inputs_tensor),
            model_kwargs.get("attention_mask"),
            model_kwargs.get("staq_layout"),
            **visual,
        )
        if vision_positions is None:
            self.model.rope_deltas = text_positions.new_zeros(text_positions.shape[0], 1)
            vision_positions = text_positions[None].expand(3, -1, -1)

        return torch.cat([text_positions[None], vision_positions])


class SpaceVLLMQwen3Mixin(SpaceVLLMQwenMixin):
    """Positions as Qwen3-VL and its heirs count them: each frame of a video is a picture of its own."""

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


class SpaceVLLMQwenDeepstackMixin(SpaceVLLMQwen3Mixin):
    """A vision tower whose earlier layers' features go into the language model's first layers, as Qwen3-VL's do."""

    def deepstack_inputs(self, output: Any, visual_mask: torch.Tensor, order: torch.Tensor) -> dict[str, Any]:
        """The vision tower's intermediate features."""
        return {
            "visual_pos_masks": visual_mask,
            "deepstack_visual_embeds": [features.to(order.device)[order] for features in output.deepstack_features],
        }
