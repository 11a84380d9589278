"""The layout tensor: what the data side tells the model about each query token.

All query tokens of a batch, row by row and in order of appearance, form one flat list; `staq_layout` has one line of
integers for each. Nothing in it depends on padding, so the same tensor serves ragged and left- or right-padded batches.
"""

from typing import NamedTuple

import torch


class Layout(NamedTuple):
    """Columns of `staq_layout`, each of shape (total_queries,), int64.

    Attributes:
        frame_index: Index of the query's frame among the sampled frames of its video; -1 for a single image.
        num_frames: Queries of that video (1 for an image).
        grid_h: Rows of the frame's grid of visual tokens.
        grid_w: Columns of the grid.
        stride: Distance in tokens between the starts of two grid rows (`grid_w`, or more with newline tokens).
        caption_offset: Where the caption starts, in tokens after the query itself.
        caption_length: Tokens of the caption; 0 where there is none.
        milliseconds: The frame's (mean) time.
    """

    frame_index: torch.Tensor
    num_frames: torch.Tensor
    grid_h: torch.Tensor
    grid_w: torch.Tensor
    stride: torch.Tensor
    caption_offset: torch.Tensor
    caption_length: torch.Tensor
    milliseconds: torch.Tensor

    @classmethod
    def unpack(cls, staq_layout: torch.Tensor) -> "Layout":
        """Split the (total_queries, 8) tensor into its columns."""
        return cls(*staq_layout.unbind(dim=-1))


class QueryIndex(NamedTuple):
    """Where each query, its visual tokens and its caption tokens stand in a (batch, sequence) grid of states.

    Attributes:
        row: Batch row of each query, shape (total_queries,).
        position: Position of the query token, shape (total_queries,).
        visual: Positions of its visual tokens in grid order, shape (total_queries, max_visual); 0 where padded.
        visual_mask: True for real ones, same shape.
        centers: Normalised (x, y) centre of each visual token's patch, shape (total_queries, max_visual, 2).
        caption: Positions of the caption tokens, shape (total_queries, max_caption); 0 where padded.
        caption_mask: True for real ones, same shape.
    """

    row: torch.Tensor
    position: torch.Tensor
    visual: torch.Tensor
    visual_mask: torch.Tensor
    centers: torch.Tensor
    caption: torch.Tensor
    caption_mask: torch.Tensor


def index_queries(is_query: torch.Tensor, is_visual: torch.Tensor, layout: Layout) -> QueryIndex:
    """Find every query's tokens.

    A query owns the visual tokens between the previous query of its row and itself: the frame it closes.

    Args:
        is_query: (batch, sequence) bool.
        is_visual: (batch, sequence) bool, image and video tokens.
        layout: One line for each True of `is_query`, row by row.
    """
    device = is_query.device
    row, position = is_query.nonzero(as_tuple=True)
    total = row.numel()
    if total != layout.frame_index.numel():
        raise ValueError(f"{total} query tokens in the batch but {layout.frame_index.numel()} lines in staq_layout.")

    # The first visual token at or after the end of the previous query: the frame's grid starts there.
    length = is_query.shape[1]
    steps = torch.arange(length, device=device).expand_as(is_query)
    next_visual = torch.where(is_visual, steps, length).flip(-1).cummin(-1).values.flip(-1)
    previous = torch.cat([position.new_full((1,), -1), position[:-1]])
    first_of_row = torch.cat([row.new_full((1,), -1), row[:-1]]) != row
    after_previous = torch.where(first_of_row, 0, previous + 1)
    start = next_visual[row, after_previous]

    size = layout.grid_h * layout.grid_w
    steps = torch.arange(int(size.max()), device=device)
    visual_mask = steps < size[:, None]
    line, column = steps // layout.grid_w[:, None], steps % layout.grid_w[:, None]
    visual = torch.where(visual_mask, start[:, None] + line * layout.stride[:, None] + column, 0)
    centers = torch.stack([(column + 0.5) / layout.grid_w[:, None], (line + 0.5) / layout.grid_h[:, None]], dim=-1)

    steps = torch.arange(max(int(layout.caption_length.max()), 1), device=device)
    caption_mask = steps < layout.caption_length[:, None]
    caption = torch.where(caption_mask, (position + layout.caption_offset)[:, None] + steps, 0)
    return QueryIndex(row, position, visual, visual_mask, centers, caption, caption_mask)
