"""The layout tensor: what the data side tells the model about each query token.

All query tokens of a batch, row by row and in order of appearance, form one flat list; `staq_layout` has one line of
integers for each. Nothing in it depends on padding, so the same tensor serves ragged and left- or right-padded batches.
"""

from itertools import accumulate
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

    def queries_per_medium(self) -> list[int]:
        """How many queries each medium has, in order of appearance."""
        return torch.bincount((self.frame_index <= 0).cumsum(dim=0) - 1).tolist()

    def of_boxes(self, lines: "BoxLines | None") -> "Layout":
        """One line for each box wanted; `self` where each query has one."""
        if lines is None:
            return self

        columns = (column[lines.query] for column in self)
        return Layout(*columns)._replace(caption_offset=lines.caption_offset, caption_length=lines.caption_length)


class BoxLines(NamedTuple):
    """Columns of `box_lines`, each of shape (boxes,), int64: the boxes wanted of a batch whose rows have several sentences.

    Row by row, for each sentence all queries of the row in order. Without it, each query gives one box, for the caption that
    its own line names.

    Attributes:
        query: Number of the query among all of the batch: its line in `staq_layout`.
        sentence: Number of the sentence in its row as in `sentence_ids`; 0 in a row that has one.
        caption_offset: Where the caption starts, in tokens after the query itself.
        caption_length: Tokens of the caption.
    """

    query: torch.Tensor
    sentence: torch.Tensor
    caption_offset: torch.Tensor
    caption_length: torch.Tensor

    @classmethod
    def unpack(cls, box_lines: torch.Tensor) -> "BoxLines":
        """Split the (boxes, 4) tensor into its columns."""
        return cls(*box_lines.unbind(dim=-1))


class QueryIndex(NamedTuple):
    """Where n queries, their visual tokens and their captions stand in a (batch, sequence) grid of states.

    All queries of a turn share one caption, so that there are fewer captions, c, than queries. A query of whom several
    sentences want a box is there once for each.

    Attributes:
        line: Number of each query's box among all of the batch, shape (n,).
        row: Batch row of each query, shape (n,).
        position: Position of the query token, shape (n,).
        visual: Positions of its visual tokens in grid order, shape (n, max_visual); 0 where padded.
        visual_mask: True for real ones, same shape.
        centers: Normalised (x, y) centre of each visual token's patch, shape (n, max_visual, 2).
        caption_row: Batch row of each caption, shape (c,).
        caption: Positions of the caption tokens, shape (c, max_caption); 0 where padded.
        caption_mask: True for real ones, same shape.
        queries_per_caption: How many queries in turn share each caption; sums up to n. On the host.
    """

    line: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    visual: torch.Tensor
    visual_mask: torch.Tensor
    centers: torch.Tensor
    caption_row: torch.Tensor
    caption: torch.Tensor
    caption_mask: torch.Tensor
    queries_per_caption: list[int]

    def to(self, device: torch.device) -> "QueryIndex":
        """The same on another device."""
        return QueryIndex(*(moved(part, device) if isinstance(part, torch.Tensor) else part for part in self))


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same on another device, from the host without waiting for it."""
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")


def given_once(sizes: list[int], media: list[int]) -> tuple[list[int], torch.Tensor]:
    """Where the vision tower sees each medium once, though it appears several times in a batch.

    Args:
        sizes: Features of each appearance.
        media: Number of each appearance's medium, in order of their first appearances.

    Returns:
        The first appearance of each medium; and for each feature of all appearances, its place among those of the media.
    """
    first = [media.index(number) for number in range(max(media) + 1)]
    begins = list(accumulate((sizes[place] for place in first), initial=0))
    return first, torch.cat(
        [torch.arange(begins[number], begins[number] + size) for number, size in zip(media, sizes)]
    )


def shown(pictures: torch.Tensor, layout: Layout, media: torch.Tensor | None) -> torch.Tensor:
    """One picture's features for each query, (total_queries, …), of pictures that may be there once for each medium.

    Args:
        pictures: (pictures, …), of the media given.
        layout: One line for each query.
        media: See `SpaceVLLMMixin.forward`; None where each appearance has its own pictures.
    """
    if media is None:
        return pictures

    return pictures[given_once(layout.queries_per_medium(), media.tolist())[1]]


def index_queries(
    is_query: torch.Tensor,
    is_visual: torch.Tensor,
    layout: Layout,
    box_targets: torch.Tensor | None = None,
    box_lines: BoxLines | None = None,
) -> QueryIndex:
    """Find the queries' tokens.

    A query owns the visual tokens between the previous query of its row and itself: the frame it closes.

    Args:
        is_query: (batch, sequence) bool.
        is_visual: (batch, sequence) bool, image and video tokens.
        layout: One line for each True of `is_query`, row by row.
        box_targets: (total_queries, 4), or with `box_lines` (boxes, 4); NaN where a query has no target. If given, only
            the queries of rows, or sentences, with a target are wanted, or the very first one where none has any: there
            is always something to decode.
        box_lines: The boxes wanted, where some rows have several sentences.
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

    owner = row
    if box_lines is not None:
        layout = layout.of_boxes(box_lines)
        row, position, start = (part[box_lines.query] for part in (row, position, start))
        owner = row * length + box_lines.sentence

    line = torch.arange(len(row), device=device)
    if box_targets is not None:
        has_target = torch.isfinite(box_targets).all(dim=-1)
        line = line[torch.isin(owner, owner[has_target])]
        line = line if len(line) else line.new_zeros(1)
        row, position, start, layout = row[line], position[line], start[line], Layout(*(part[line] for part in layout))

    size = layout.grid_h * layout.grid_w
    steps = torch.arange(int(size.max()), device=device)
    visual_mask = steps < size[:, None]
    y, x = steps // layout.grid_w[:, None], steps % layout.grid_w[:, None]
    visual = torch.where(visual_mask, start[:, None] + y * layout.stride[:, None] + x, 0)
    centers = torch.stack([(x + 0.5) / layout.grid_w[:, None], (y + 0.5) / layout.grid_h[:, None]], dim=-1)

    captions = torch.stack([row, position + layout.caption_offset, layout.caption_length], dim=-1)
    captions, queries_per_caption = captions.unique_consecutive(dim=0, return_counts=True)
    caption_row, start, length = captions.unbind(dim=-1)
    steps = torch.arange(max(int(length.max()), 1), device=device)
    caption_mask = steps < length[:, None]
    caption = torch.where(caption_mask, start[:, None] + steps, 0)
    return QueryIndex(
        *(line, row, position, visual, visual_mask, centers),
        *(caption_row, caption, caption_mask, queries_per_caption.tolist()),
    )
