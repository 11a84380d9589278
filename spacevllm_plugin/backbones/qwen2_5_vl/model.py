"""SpaceVLLM on Qwen2.5-VL: real seconds in the temporal positions, one query after every temporal patch."""

from typing import Any

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from ...modeling.layout import Layout, QueryIndex, index_queries
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
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)

        rate = self.config.vision_config.tokens_per_second / 1000
        index = index_queries(self._is_query(input_ids), self._is_visual(input_ids), Layout.unpack(staq_layout))
        return count_positions(index, Layout.unpack(staq_layout), attention_mask.bool(), rate)


def count_positions(
    index: QueryIndex, layout: Layout, real: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions of `get_rope_index`, for all queries at once.

    Args:
        index: Where the queries and their frames stand.
        layout: One line for each query.
        real: (batch, sequence) bool, False for padding, which stands before or behind a row.
        rate: Steps in time for each millisecond.

    Returns:
        Positions (3, batch, sequence), 0 for padding, and (batch, 1) what comes next less the tokens so far.
    """
    length = real.shape[1]
    places = torch.arange(length + 1, device=real.device)
    first = real.long().argmax(dim=1)
    last = length - 1 - real.flip(1).long().argmax(dim=1)

    # The stand-in image of a batch without media is masked out.
    row, end = index.row, index.position
    kept = real[row, end]
    row, end, visual, visual_mask = row[kept], end[kept], index.visual[kept], index.visual_mask[kept]
    layout = Layout(*(column[kept] for column in layout))
    number, start = torch.arange(len(row), device=row.device), visual[:, 0]
    if not len(row):
        start = end  # nor is there a column of visual tokens

    # A picture is a video of one frame. Of each query: whether its row or its video begins, and which video it is of.
    new_row = row != torch.cat([row.new_full((1,), -1), row[:-1]])[: len(row)]
    new_video = new_row | (layout.frame_index <= 0)
    video = new_video.cumsum(dim=0) - 1
    begin = torch.where(new_video, number, 0).cummax(dim=0).values
    previous = torch.where(new_row, first[row] - 1, torch.cat([end[:1], end[:-1]]))
    text = start - previous - 1

    # In time, from the video's first frame, each frame at least a step behind the one before.
    milliseconds = (layout.milliseconds - layout.milliseconds[begin]).double()
    steps = (milliseconds * rate).round().long()
    time = _greatest_so_far(steps - (number - begin), video) + (number - begin)

    # The query stands beyond its grid and whatever text closes that; what follows, beyond all that came before.
    grid_end = start + layout.grid_h * layout.grid_w
    beyond = torch.maximum(layout.grid_h, layout.grid_w) + (end - grid_end)
    between = torch.where(new_video, 0, text).cumsum(dim=0)
    between = between - between[begin]
    following = _greatest_so_far(torch.maximum(time, beyond) + 1 - between, video) + between

    # Where each video begins: behind all videos before it in its row, and the text before each of them.
    is_last = torch.cat([new_video[1:], new_video.new_ones(1)])[: len(row)]
    advance = torch.where(is_last, following + text[begin], 0)
    so_far = advance.cumsum(dim=0) - advance
    row_begin = torch.where(new_row, number, 0).cummax(dim=0).values
    origin = (so_far - so_far[row_begin])[begin] + text[begin]
    following = origin + following

    # Text goes on from the query before it.
    before = torch.zeros(len(real), length + 1, dtype=torch.long, device=real.device)
    before[row, end + 1] = number + 1
    before = before.cummax(dim=1).values
    behind_query = torch.cat([row.new_zeros(1), following - end - 1])[before]
    counted = places + torch.where(before > 0, behind_query, -first[:, None])
    positions = counted[:, :length].masked_fill(~real, 0).expand(3, -1, -1).clone()

    cell = torch.arange(visual.shape[1], device=row.device)
    width = layout.grid_w[:, None]
    where = (row[:, None].expand_as(visual)[visual_mask], visual[visual_mask])
    for axis, offset in enumerate((time[:, None].expand_as(visual), cell // width, cell % width)):
        positions[axis][where] = (origin[:, None] + offset)[visual_mask]

    closing = end - grid_end
    for token in range(int(closing.max()) if len(row) else 0):
        own = closing > token
        positions[:, row[own], (grid_end + token)[own]] = (origin + beyond - closing + token)[own]

    positions[0, row, end] = origin + time
    positions[1:, row, end] = origin + beyond
    next_one = counted.gather(1, last[:, None] + 1)
    return positions, torch.where(real.any(dim=1, keepdim=True), next_one, 0) - real.sum(dim=1, keepdim=True)


def _greatest_so_far(values: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """The greatest of its group up to each value; groups are numbered in order, and values far below 2**40."""
    lift = group << 40
    return (values + lift).cummax(dim=0).values - lift if len(values) else values
