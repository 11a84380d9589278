"""One video, many sentences: what a model has read up to the end of its media, and the sentences that go on from there.

Attention is causal, so nothing up to the end of a prompt's last medium depends on the sentence behind it: keys and values,
and the last states of visual tokens and queries, are those of every prompt that begins alike. They are computed once, as
a `VideoPrefix`; `Suffixes` is the cache of one batch of sentences behind it. Neither the prefix nor its keys and values are
ever copied for a sentence: to the language model all sentences are one sequence, in which a mask shows each the prefix and
itself (`folded`). Linear attention, whose state is small, gets its states copied and its sentences apart.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, LinearAttentionLayer

from .layout import BoxLines, Layout


class VideoPrefix(DynamicCache):
    """The cache of a prompt's beginning, and what boxes need of it. Give it empty to `forward`, as `past_key_values`.

    Attributes:
        input_ids: (1, length), from the first token to the last of its last medium.
        states: (1, length, d), after the language model's final norm.
        earlier: (1, length, d), what goes into the layer of the presence head; None without one.
        rope_delta: (1, 1), what the position of a token behind it is ahead of its place in the prompt.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.input_ids = self.states = self.earlier = self.rope_delta = None

    def keep(
        self,
        input_ids: torch.Tensor,
        states: torch.Tensor,
        earlier: torch.Tensor | None,
        position_ids: torch.Tensor | None,
    ) -> None:
        """Take what the language model has made of the tokens, beside keys and values.

        Args:
            input_ids: (1, length).
            states: (1, length, d).
            earlier: (1, length, d), or None.
            position_ids: (…, 1, length), or None where positions are places.
        """
        self.input_ids, self.states, self.earlier = input_ids, states, earlier
        length = input_ids.shape[1]
        last = position_ids.max() if position_ids is not None else torch.tensor(length - 1, device=input_ids.device)
        self.rope_delta = (last + 1 - length).reshape(1, 1)

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return sum(tensor.nbytes for tensor in self._tensors())

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from (part for part in (self.input_ids, self.states, self.earlier) if part is not None)
        for layer in self.layers:
            yield from (part for part in vars(layer).values() if isinstance(part, torch.Tensor))


class _BehindPrefix(DynamicLayer):
    """Keys and values of the sentences alone; the prefix's are put before them for the moment that a layer takes."""

    def __init__(self, prefix: DynamicLayer) -> None:
        super().__init__()
        self.prefix = prefix

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple:
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        return torch.cat([self.prefix.keys, keys], dim=-2), torch.cat([self.prefix.values, values], dim=-2)

    def get_seq_length(self) -> int:
        return self.prefix.get_seq_length() + super().get_seq_length()


class Suffixes(Cache):
    """The cache of sentences behind one prefix, a row each, padded between the prefix and the sentence.

    Args:
        prefix: What all begin with.
        layouts: For each sentence the `staq_layout` of the whole prompt, (queries of the prefix, 8).

    Attributes:
        prefix: As given.
        layouts: As given, until the boxes are decoded; then None.
    """

    def __init__(self, prefix: VideoPrefix, layouts: list[torch.Tensor]) -> None:
        self.prefix = prefix
        self.layouts: list[torch.Tensor] | None = layouts
        self.rows = len(layouts)
        # Of each token behind the prefix, in the order in which layers keep them: its row, and its place in it.
        self._row = self._place = torch.zeros(0, dtype=torch.long, device=prefix.input_ids.device)
        super().__init__(layers=[self._behind(layer) for layer in prefix.layers])

    def _behind(self, layer: Any) -> Any:
        if isinstance(layer, DynamicLayer):
            return _BehindPrefix(layer)

        own = copy.copy(layer)
        own.conv_states = layer.conv_states.repeat(self.rows, 1, 1)
        own.recurrent_states = layer.recurrent_states.repeat(self.rows, 1, 1, 1)
        return own

    @contextmanager
    def kept_for(self, real: torch.Tensor) -> Iterator[None]:
        """Linear attention's states as they were, behind the block, but for the rows of which a real token was read.

        Args:
            real: (rows,) bool.
        """
        layers = [layer for layer in self.layers if isinstance(layer, LinearAttentionLayer)]
        before = [(layer.conv_states.clone(), layer.recurrent_states.clone()) for layer in layers]
        yield
        for layer, (conv, recurrent) in zip(layers, before):
            read = real.to(conv.device)
            layer.conv_states = torch.where(read[:, None, None], layer.conv_states, conv)
            layer.recurrent_states = torch.where(read[:, None, None, None], layer.recurrent_states, recurrent)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of each prompt so far, as if there were one cache for each."""
        length = self.prefix.input_ids.shape[1]
        behind = next(layer for layer in self.layers if isinstance(layer, _BehindPrefix)).get_seq_length() - length
        return length + behind // self.rows

    def box_lines(self, is_query: torch.Tensor, attention_mask: torch.Tensor) -> BoxLines:
        """The boxes wanted of the prefix and all rows as one sequence: of each row, all queries of the prefix.

        Args:
            is_query: (1, length) bool, of the prefix, on the host.
            attention_mask: (rows, prefix + what each row has so far), 0 for padding.

        Returns:
            On the host. Of captions in the prefix, where they are; of those behind it, where the row's are.
        """
        length, wanted = is_query.shape[1], []
        position, own = is_query.nonzero()[:, 1], attention_mask[:, length:].cpu()
        for row, layout in enumerate(self.layouts):
            layout = Layout.unpack(layout.cpu())
            # Rows stand one behind the other, each with its padding in front.
            before = row * own.shape[1] + own.shape[1] - int(own[row].sum())
            offset = layout.caption_offset + before * (position + layout.caption_offset >= length)
            numbers = torch.arange(len(position))
            wanted.append(BoxLines(numbers, torch.full_like(numbers, row + 1), offset, layout.caption_length))

        return BoxLines(*map(torch.cat, zip(*wanted)))

    def fold(self, tensor: torch.Tensor) -> torch.Tensor:
        """(rows, new, d) as one sequence, (1, rows * new, d)."""
        return tensor.flatten(0, 1)[None]

    def unfold(self, tensor: torch.Tensor) -> torch.Tensor:
        """The reverse of `fold`."""
        return tensor.unflatten(1, (self.rows, -1))[0]

    def mask(self, attention_mask: torch.Tensor, new: int) -> torch.Tensor:
        """Which tokens each new one sees: the prefix, and its own row up to itself.

        To be called once for each call of the language model, before it.

        Args:
            attention_mask: (rows, prefix + all of each row so far, with the new ones); 0 for padding.
            new: New tokens of each row.

        Returns:
            (1, 1, rows * new, prefix + rows * all so far), True where one is seen.
        """
        length = self.prefix.input_ids.shape[1]
        real = attention_mask[:, length:].bool()
        place = torch.arange(real.shape[1] - new, real.shape[1], device=self._row.device).repeat(self.rows)
        row = torch.arange(self.rows, device=self._row.device).repeat_interleave(new)
        self._row, self._place = torch.cat([self._row, row]), torch.cat([self._place, place])
        own = (row[:, None] == self._row) & (place[:, None] >= self._place) & real[self._row, self._place]
        return torch.cat([own.new_ones(len(own), length), own], dim=1)[None, None]


def may_share(config: Any, layers: tuple[type, ...]) -> bool:
    """Whether a language model can read sentences behind one prefix.

    Args:
        config: The language model's.
        layers: Kinds of cache layers that its room knows to share.
    """
    # Flash attention takes no mask, and windows slide over what is not there.
    return config._attn_implementation in ("sdpa", "eager") and all(
        type(layer) in layers for layer in DynamicCache(config=config).layers
    )


def folded(run: Any, suffixes: Suffixes, implementation: str, **inputs: Any) -> Any:
    """Call a language model with all sentences as one sequence.

    Args:
        run: The language model.
        suffixes: Its cache.
        implementation: Of its attention, `sdpa` or `eager`.
        **inputs: As for a batch: `inputs_embeds` (rows, new, d), `attention_mask` (rows, prefix + all so far),
            `position_ids` (…, rows, new) and whatever else it takes.

    Returns:
        Its output, with the last states (rows, new, d).
    """
    embeds, positions = inputs.pop("inputs_embeds"), inputs.pop("position_ids")
    mask = suffixes.mask(inputs.pop("attention_mask"), embeds.shape[1]).to(embeds.device)
    if implementation == "eager":
        mask = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, torch.finfo(embeds.dtype).min)

    outputs = run(
        inputs_embeds=suffixes.fold(embeds),
        attention_mask=mask,
        position_ids=positions.flatten(-2)[..., None, :],
        past_key_values=suffixes,
        **inputs,
    )
    outputs.last_hidden_state = suffixes.unfold(outputs.last_hidden_state)
    return outputs
