"""Spatio-Temporal Aware Queries (STAQ): one learned embedding per sampled frame, one more for single images."""

import torch
from torch import nn

from .layout import Layout


class STAQEmbedding(nn.Embedding):
    """Embeddings that replace the placeholder token's, row `i` for frame `i`, the last row for an image.

    PAPER: SpaceVLLM, arXiv 2503.13983, "Spatio-Temporal Aware Queries". A module of its own rather than new rows of
    the vocabulary, so that merging, tied embeddings and ZeRO-3 see nothing special.

    Args:
        num_frame_queries: N_v, the rows for frames.
        hidden_size: Width of the language model.
    """

    def __init__(self, num_frame_queries: int, hidden_size: int) -> None:
        super().__init__(num_frame_queries + 1, hidden_size)

    def forward(self, layout: Layout) -> torch.Tensor:
        """Query embeddings, shape (total_queries, hidden_size).

        A video with more frames than rows resamples the rows by position (linearly between neighbours).
        """
        last = self.num_embeddings - 2
        index = layout.frame_index.clamp(min=0).to(torch.float32)
        crowded = layout.num_frames > last + 1
        index = torch.where(crowded, index * last / (layout.num_frames - 1).clamp(min=1), index)
        low = index.floor()
        weight = (index - low)[:, None]
        low = torch.where(layout.frame_index < 0, last + 1, low.long())
        high = torch.where(weight[:, 0] > 0, low + 1, low)
        return torch.lerp(super().forward(low), super().forward(high), weight.to(self.weight.dtype))
