"""Query-Guided Space Decoder (QGSD): from each query's state, its frame and the caption to one box."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .anchor import Anchor


# Visual tokens that are in memory in fp32 at once, at width 3584 half a gigabyte with all that is made of them.
TOKENS_AT_ONCE = 4096


class FP32Affine(nn.Linear):
    """A linear layer that computes in fp32 whatever it is stored or autocast in: half a per mille is a pixel.

    Its name lacks "Linear" because LLaMA-Factory looks for that to find LoRA's targets.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer; returns fp32."""
        with torch.autocast(x.device.type, enabled=False):
            bias = self.bias.float() if self.bias is not None else None
            return F.linear(x.float(), self.weight.float(), bias)


class BoxMLP(nn.Module):
    """DETR's box head: `num_layers` linear layers with ReLU between them, four numbers out."""

    def __init__(self, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        widths = [hidden_size] * num_layers + [4]
        self.layers = nn.ModuleList(FP32Affine(a, b) for a, b in zip(widths, widths[1:]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(total_queries, hidden_size) -> (total_queries, 4), before the sigmoid."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))

        return self.layers[-1](x)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Single-head scaled dot-product attention in fp32.

    Args:
        query: (n, a, d).
        key: (n, b, d).
        value: (n, b, d).
        mask: (n, b), True for keys that exist; a line without any yields zeros.

    Returns:
        The attended values (n, a, d) and the weights (n, a, b).
    """
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    scores = scores.masked_fill(~mask[:, None, :], torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1) * mask[:, None, :]
    return weights @ value, weights


class ScaledStates(nn.Module):
    """Query and key at RMS 1 and one learned scale: how sharp attention is no longer depends on how large states are.

    Behind the final norm of a real checkpoint states can have an RMS of 5. Dot products over √d of such states lie tens
    apart at width 2048: softmax gives one patch all the weight, and no gradient moves the query to another. At RMS 1 the
    scores of unrelated states have variance 1, which is what dividing by √d is for (QK-norm, arXiv 2010.04245); where
    states have RMS 1 already, it starts as the parameter-free attention. The scale starts at 1, and as a logarithm it
    stays positive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))  # FSDP takes no scalars

    def forward(self) -> torch.Tensor:
        """The scale, (1,), fp32."""
        return self.log_scale.float().exp()


def look(
    queries: torch.Tensor,
    states: torch.Tensor,
    visual: torch.Tensor,
    visual_mask: torch.Tensor,
    caption: torch.Tensor,
    caption_mask: torch.Tensor,
    scale: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both attentions without projections, for queries that share a caption.

    Args:
        queries: (n, d), fp32.
        states: (tokens, d), as the language model has them.
        visual: (n, s), places in `states` of each query's frame.
        visual_mask: (n, s).
        caption: (l, d), fp32.
        caption_mask: (l,).
        scale: (1,), see `ScaledStates`; None for states as they are.

    Returns:
        What each query sees (n, d) and the weights of its patches (n, s).
    """
    frames = states[visual].float()
    # All frames look at the one copy of the caption: 64 of them would be a gigabyte.
    seen, _ = attend(frames.flatten(0, 1)[None], caption[None], caption[None], caption_mask[None])
    frames = frames + seen.view_as(frames)
    query, key = queries[:, None], frames
    if scale is not None:
        query, key = scale * F.rms_norm(query, query.shape[-1:]), F.rms_norm(key, key.shape[-1:])

    focus, weights = attend(query, key, frames, visual_mask)
    return focus[:, 0], weights[:, 0]


class Sight(NamedTuple):
    """What the queries look at; as `SpaceDecoder.forward` takes it, queries and captions in fp32."""

    queries: torch.Tensor
    states: torch.Tensor
    visual: torch.Tensor
    visual_mask: torch.Tensor
    caption: torch.Tensor
    caption_mask: torch.Tensor
    queries_per_caption: list[int]

    def parts(self, longest: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """The first arguments of `look` for each run of at most `longest` queries that share a caption."""
        begin = 0
        for own, size in enumerate(self.queries_per_caption):
            for first in range(begin, begin + size, longest):
                part = slice(first, min(first + longest, begin + size))
                frames = self.queries[part], self.states, self.visual[part], self.visual_mask[part]
                yield *frames, self.caption[own], self.caption_mask[own]

            begin += size


class Decoded(NamedTuple):
    """What the space decoder says of n queries.

    Attributes:
        boxes: (n, 4) normalised (cx, cy, w, h), fp32.
        presence: (n,) logits; None without the presence head.
        anchor: The boxes' reference points; None with `box_anchor="none"`.
    """

    boxes: torch.Tensor
    presence: torch.Tensor | None
    anchor: Anchor | None


class SpaceDecoder(nn.Module):
    """Dual cross-attention and a light MLP.

    With query state q, visual states V and caption states T of one frame:

        V' = V + softmax(V Tᵀ / √d) T
        q' = q + softmax(q V'ᵀ / √d) V'
        box = sigmoid(MLP(q'))

    PAPER: SpaceVLLM, arXiv 2503.13983, "Query-Guided Space Decoder"; the formulas are our reconstruction. With
    `box_anchor="attention"` the second attention's mean patch centre is added, as a logit, to the box centre, like
    the reference points of Conditional DETR (arXiv 2108.06152); this adds no parameter.

    Args:
        hidden_size: Width d of the states.
        attention: `parameter_free` (the paper's), `scaled` (the attention of q over V' with `ScaledStates`) or
            `projected` (learned query and key maps).
        mlp_layers: Linear layers of the box head.
        box_anchor: `attention` or `none` (the paper's letter).
        presence_head: Add a linear presence score for each query (ours, after Bridge-STG).
    """

    def __init__(
        self, hidden_size: int, attention: str, mlp_layers: int, box_anchor: str, presence_head: bool = False
    ) -> None:
        super().__init__()
        self.box_anchor = box_anchor
        self.scaled_states = ScaledStates() if attention == "scaled" else None
        self.projections = None
        if attention == "projected":
            names = ("visual_query", "caption_key", "staq_query", "visual_key")
            self.projections = nn.ModuleDict({name: FP32Affine(hidden_size, hidden_size) for name in names})

        self.mlp = BoxMLP(hidden_size, mlp_layers)
        self.presence = FP32Affine(hidden_size, 1) if presence_head else None

    def forward(
        self,
        queries: torch.Tensor,
        states: torch.Tensor,
        visual: torch.Tensor,
        visual_mask: torch.Tensor,
        centers: torch.Tensor,
        caption: torch.Tensor,
        caption_mask: torch.Tensor,
        queries_per_caption: list[int],
        earlier: torch.Tensor | None = None,
    ) -> Decoded:
        """Decode one box per query.

        Args:
            queries: (n, d) states of the query tokens, after the language model's final norm.
            states: (tokens, d) states of all tokens.
            visual: (n, s), places in `states` of each query's frame.
            visual_mask: (n, s).
            centers: (n, s, 2) normalised (x, y) patch centres.
            caption: (c, l, d) states of the captions.
            caption_mask: (c, l).
            queries_per_caption: How many queries in turn belong to each caption; sums up to n.
            earlier: (n, d) states of the query tokens at an earlier layer, for the presence score.
        """
        with torch.autocast(queries.device.type, enabled=False):
            queries, caption = queries.float(), caption.float()
            given = Sight(queries, states, visual, visual_mask, caption, caption_mask, queries_per_caption)
            see = self._look_in_parts if self.projections is None else self._look_projected
            focus, weights = see(given)
            logits, anchor = self.mlp(queries + focus), None
            if self.box_anchor == "attention":
                anchor = Anchor.of(weights, centers, visual_mask)
                logits = logits + F.pad(torch.logit(anchor.center, eps=1e-4), (0, 2))

            return Decoded(logits.sigmoid(), self._presence(earlier), anchor)

    def _look_in_parts(self, given: Sight) -> tuple[torch.Tensor, torch.Tensor]:
        """`look` at some frames after the other: no fp32 copy of all visual tokens, in the backward pass neither.

        No parameter is used in a part, of which ranks have different numbers: ZeRO-3 gathers them in step.
        """
        scale, seen = self.scaled_states() if self.scaled_states is not None else None, []
        for part in given.parts(max(1, TOKENS_AT_ONCE // given.visual.shape[1])):
            if torch.is_grad_enabled():
                seen.append(checkpoint(look, *part, scale, use_reentrant=False, preserve_rng_state=False))
            else:
                seen.append(look(*part, scale))

        focus, weights = zip(*seen)
        return torch.cat(focus), torch.cat(weights)

    def _look_projected(self, given: Sight) -> tuple[torch.Tensor, torch.Tensor]:
        """With learned maps, each called once, on all visual tokens."""
        maps, frames, caption = self.projections, given.states[given.visual].float(), given.caption
        groups = maps["visual_query"](frames).split(given.queries_per_caption)
        captions = zip(maps["caption_key"](caption)[:, None], caption[:, None], given.caption_mask[:, None])
        seen = [attend(group.flatten(0, 1)[None], *one)[0].view_as(group) for group, one in zip(groups, captions)]
        frames = frames + torch.cat(seen)
        query, key = maps["staq_query"](given.queries)[:, None], maps["visual_key"](frames)
        focus, weights = attend(query, key, frames, given.visual_mask)
        return focus[:, 0], weights[:, 0]

    def _presence(self, earlier: torch.Tensor | None) -> torch.Tensor | None:
        if self.presence is None:
            return None

        earlier = earlier.float()
        return self.presence(F.rms_norm(earlier, earlier.shape[-1:]))[:, 0]
