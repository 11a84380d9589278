"""SpaceVLLM on Qwen2.5-VL: real seconds in the temporal positions, one query after every temporal patch."""

from typing import Any

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from ...modeling.layout import Layout, index_queries
from ..qwen.model import SpaceVLLMQwenMixin
from .config import SpaceVLLMQwen2_5_VLConfig


class SpaceVLLMQwen2_5_VLForConditionalGeneration(SpaceVLLMQwenMixin, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL with queries and a space decoder."""

    config_class = SpaceVLLMQwen2_5_VLConfig
    config: SpaceVLLMQwen2_5_VLConfig
    one_sentence = None

    def get_rope_index(
        self,
        input_ids: torch.Tensor,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        staq_layout: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """M-RoPE positions, (3, batch, sequence), and deltas, (batch, 1).

        Visual tokens stand as in Qwen2.5-VL's paper (arXiv 2502.13923): all frames of a video share their spatial
        origin and are `tokens_per_second` apart in time, by their real times (upstream truncates the seconds between
        frames to an integer, so that all frames fall together above one frame a second). Frames closer than one step
        still get steps of their own. A query stands at its frame's time, just beyond its grid.
        """
        is_query = input_ids == self.config.staq_token_id
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)

        positions = torch.zeros(3, *input_ids.shape, dtype=torch.long, device=input_ids.device)
        layout = Layout.unpack(staq_layout)
        is_visual = (input_ids == self.config.image_token_id) | (input_ids == self.config.video_token_id)
        index = index_queries(is_query, is_visual, layout)
        starts, ends = index.visual[:, 0].tolist(), index.position.tolist()
        frame_index, milliseconds = layout.frame_index.tolist(), layout.milliseconds.tolist()
        grid_h, grid_w = layout.grid_h.tolist(), layout.grid_w.tolist()
        rows = index.row.tolist()
        rate = self.config.vision_config.tokens_per_second / 1000

        deltas = []
        for row in range(input_ids.shape[0]):
            valid = attention_mask[row].nonzero()[:, 0].tolist()
            cursor, following = (valid[0], 0) if valid else (0, 0)  # next token, and the position text would get
            origin = offset = first_time = 0
            for query in (q for q, r in enumerate(rows) if r == row):
                start, end, h, w = starts[query], ends[query], grid_h[query], grid_w[query]
                if not valid or not valid[0] <= end <= valid[-1]:
                    continue  # the stand-in image of a batch without media is masked out

                if start > cursor:
                    positions[:, row, cursor:start] = torch.arange(
                        following, following + start - cursor, device=input_ids.device
                    )
                    following += start - cursor

                if frame_index[query] <= 0:
                    origin, offset, first_time = following, 0, milliseconds[query]
                else:
                    offset = max(offset + 1, round((milliseconds[query] - first_time) * rate))

                lines = torch.arange(h, device=input_ids.device).repeat_interleave(w)
                columns = torch.arange(w, device=input_ids.device).repeat(h)
                grid_end = start + h * w
                positions[0, row, start:grid_end] = origin + offset
                positions[1, row, start:grid_end] = origin + lines
                positions[2, row, start:grid_end] = origin + columns
                # Between an image and its query stands the end of its vision block, which is text.
                beyond = origin + max(h, w)
                positions[:, row, grid_end:end] = torch.arange(
                    beyond, beyond + end - grid_end, device=input_ids.device
                )
                beyond += end - grid_end
                positions[0, row, end] = origin + offset
                positions[1:, row, end] = beyond
                following = max(following, origin + offset + 1, beyond + 1)
                cursor = end + 1

            if valid:
                tail = valid[-1] + 1 - cursor
                positions[:, row, cursor : cursor + tail] = torch.arange(
                    following, following + tail, device=input_ids.device
                )
                following += tail

            deltas.append(following - len(valid))

        return positions, torch.tensor(deltas, device=input_ids.device)[:, None]
