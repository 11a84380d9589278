"""Queries as ordinary tokens: an engine knows embeddings by their ids alone."""

from typing import Any

import torch
from pydantic import BaseModel

from ..data.video import MediaError
from ..modeling.layout import Layout
from ..modeling.queries import STAQEmbedding


class QueryVocabulary(BaseModel):
    """Ids of the queries' embeddings in an exported checkpoint.

    A row of the vocabulary cannot be interpolated, as `STAQEmbedding` does for videos with more frames than it has rows: one
    such number of queries, the one that the checkpoint's own limit of frames leads to, has ids of its own.

    Attributes:
        frames: By frame, for videos with no more queries than this.
        image: For an image.
        crowded: By frame, for videos with exactly as many queries; empty where none has more than `frames`.
    """

    frames: list[int]
    image: int
    crowded: list[int] = []

    @classmethod
    def add_to(cls, tokenizer: Any, rows: int, most: int) -> "QueryVocabulary":
        """Give a tokenizer the queries' tokens.

        Args:
            tokenizer: Changed in place.
            rows: Learned queries for frames.
            most: Most queries that a video gets.
        """
        frames = [f"<|staq_{i}|>" for i in range(rows)]
        crowded = [f"<|staq_{i}_of_{most}|>" for i in range(most)] if most > rows else []
        tokenizer.add_tokens([*frames, "<|staq_image|>", *crowded], special_tokens=True)
        find = tokenizer.convert_tokens_to_ids
        return cls(frames=find(frames), image=find("<|staq_image|>"), crowded=find(crowded) if crowded else [])

    @property
    def all(self) -> list[int]:
        """All ids, in the order of `rows`."""
        return [*self.frames, self.image, *self.crowded]

    @torch.no_grad()
    def rows(self, queries: STAQEmbedding) -> torch.Tensor:
        """The embeddings of `all`, (ids, d)."""
        counts = [(i, len(self.frames)) for i in range(len(self.frames))]
        counts += [(-1, 1), *((i, len(self.crowded)) for i in range(len(self.crowded)))]
        frame_index, num_frames = torch.tensor(counts, device=queries.weight.device).unbind(dim=-1)
        blank = torch.zeros_like(frame_index)
        return queries(Layout(*[blank] * len(Layout._fields))._replace(frame_index=frame_index, num_frames=num_frames))

    def ids(self, layout: torch.Tensor) -> list[int]:
        """The ids of a prompt's queries, in order.

        Args:
            layout: (queries, 8), see `modeling.layout`.

        Raises:
            MediaError: A video has more queries than there are ids for.
        """
        columns = Layout.unpack(layout)
        return [self._id(*line) for line in zip(columns.frame_index.tolist(), columns.num_frames.tolist())]

    def _id(self, frame: int, count: int) -> int:
        if frame < 0:
            return self.image

        if count <= len(self.frames):
            return self.frames[frame]

        if count == len(self.crowded):
            return self.crowded[frame]

        allowed = f"up to {len(self.frames)}" + (f", or {len(self.crowded)}" if self.crowded else "")
        raise MediaError(f"a video takes {count} queries, and this export has tokens for {allowed}")
