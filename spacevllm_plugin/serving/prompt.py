"""A prompt as an engine takes it: ids of its own vocabulary, and what its language model would see of each picture."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from ..inference.engine import Engine
from ..inference.items import GroundingItem
from ..modeling.layout import Layout
from .description import EngineExport


@dataclass(frozen=True)
class Picture:
    """A frame, a pair that a temporal patch merges, or an image.

    Attributes:
        embeds: (tokens, width), the vision tower's features. Where its earlier layers' features go into the language model,
            too (deepstack), these follow in the same row: the width is a multiple of d then.
        grid: (1, rows, columns) in patches, for engines that count positions by it; None for backbones without.
    """

    embeds: torch.Tensor
    grid: tuple[int, int, int] | None


@dataclass(frozen=True)
class EnginePrompt:
    """One prompt for an engine, and what its states are read with.

    Attributes:
        token_ids: In the export's vocabulary: a token of its own for each query, and one for all visual tokens.
        pictures: In order of appearance; each stands where `token_ids` has a run of visual tokens.
        is_query: (1, sequence).
        is_visual: (1, sequence).
        layout: (queries, 8), see `modeling.layout`; None without media.
    """

    token_ids: list[int]
    pictures: list[Picture]
    is_query: torch.Tensor
    is_visual: torch.Tensor
    layout: torch.Tensor | None

    def pieces(self) -> list[list[int] | Picture]:
        """Text, picture, text, …: the prompt without its visual tokens."""
        visual, pictures = self.is_visual[0].tolist(), iter(self.pictures)
        pieces: list[list[int] | Picture] = []
        for i, token in enumerate(self.token_ids):
            if visual[i]:
                if i == 0 or not visual[i - 1]:
                    pieces.append(next(pictures))
            elif pieces and isinstance(pieces[-1], list):
                pieces[-1].append(token)
            else:
                pieces.append([token])

        return pieces


def read_media(engine: Engine, item: GroundingItem) -> dict[str, torch.Tensor]:
    """The media of a prompt as the backbone's tensors, with `staq_layout`; empty without media.

    Raises:
        MediaError: A picture cannot be read.
    """
    if not (item.images or item.videos):
        return {}

    return engine.prompter.model_inputs([item.token_ids], [item.images], [item.videos])


@torch.inference_mode()
def make_prompt(
    engine: Engine, export: EngineExport, item: GroundingItem, media: dict[str, torch.Tensor]
) -> EnginePrompt:
    """Translate a prompt, and run the vision tower.

    Args:
        engine: The sidecar, or the whole model.
        export: What the engine has loaded.
        item: The prompt.
        media: What `read_media` has read of it.

    Raises:
        MediaError: A video has more queries than the export has tokens for.
    """
    model: Any = engine.model
    ids = torch.tensor([item.token_ids])
    is_query, is_visual = model._is_query(ids), model._is_visual(ids)
    if not media:
        return EnginePrompt(item.token_ids, [], is_query, is_visual, None)

    layout = media["staq_layout"]
    translated = ids.masked_fill(is_visual, export.picture_token)
    translated[is_query] = torch.tensor(export.queries.ids(layout))

    visual = {name: media[name].to(model.device) if name in media else None for name in model.visual_inputs}
    width = model.config.get_text_config().hidden_size
    nothing = torch.zeros(*ids.shape, width, dtype=model.dtype, device=model.device)
    columns = Layout.unpack(layout)
    embeds, further = model.embed_visual(ids, nothing, columns, **visual)
    features = torch.cat([embeds[0, is_visual[0]], *further.get("deepstack_visual_embeds", ())], dim=-1).cpu()

    # Each query closes the picture before it.
    ends = [0, *is_visual[0].cumsum(0)[is_query[0]].tolist()]
    sizes = zip(columns.grid_h.tolist(), columns.grid_w.tolist())
    scale = export.merge_size
    grids = [(1, rows * scale, grid * scale) if scale else None for rows, grid in sizes]
    pictures = [Picture(features[start:end], grid) for (start, end), grid in zip(pairwise(ends), grids)]
    return EnginePrompt(translated[0].tolist(), pictures, is_query, is_visual, layout)
