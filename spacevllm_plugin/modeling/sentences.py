"""Several sentences about one video in one sequence: what each may see, and where it stands.

Such a sequence is a prefix (all that stands before the sentences: system message, frames, queries) and behind it the
sentences, each with its answer. A sentence sees the prefix and itself, and its positions begin where the prefix's end, as
they do where it is alone: states, losses and gradients are those of as many sequences. `sentence_ids`, (batch, sequence),
tells the tokens apart: 0 in the prefix, in padding and in a row that has one sentence, else the sentence's number, from 1.
"""

from typing import Any

import torch
from transformers.masking_utils import create_causal_mask


# Those that take any mask. Flash attention knows causal ones alone, and would let each sentence see those before it.
MASKED_ATTENTION = ("eager", "sdpa", "flex_attention")


def find_obstacle(text_config: Any) -> str | None:
    """Why masks do not keep sentences apart in a language model; None if they do.

    Args:
        text_config: The language model's config (transformers).
    """
    attention = text_config._attn_implementation
    if attention not in MASKED_ATTENTION:
        return f"attention by {attention} takes no masks but causal ones"

    other = {*(getattr(text_config, "layer_types", None) or ())} - {"full_attention"}
    return f"its language model has layers of {', '.join(sorted(other))}" if other else None


def sentence_mask(
    text_config: Any, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None, sentence_ids: torch.Tensor
) -> Any:
    """A mask as the language model's attention takes it: causal, and no sentence sees another.

    Args:
        text_config: The language model's config (transformers).
        inputs_embeds: (batch, sequence, d).
        attention_mask: (batch, sequence), 0 where a token is padding.
        sentence_ids: (batch, sequence).

    Returns:
        (batch, 1, sequence, sequence), bool or to be added to scores; a `BlockMask` for flex attention.

    Raises:
        ValueError: No mask can do that here.
    """
    obstacle = find_obstacle(text_config)
    if obstacle:
        raise ValueError(f"Several sentences in one sequence: {obstacle}.")

    ids = sentence_ids.to(inputs_embeds.device)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (ids[batch, key] == 0) | (ids[batch, key] == ids[batch, query])

    return create_causal_mask(
        config=text_config,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        past_key_values=None,
        and_mask_function=sees,
    )


def sentence_positions(positions: torch.Tensor, sentence_ids: torch.Tensor) -> torch.Tensor:
    """Positions, once each sentence stands right behind the prefix.

    Args:
        positions: (…, batch, sequence), as if the sentences were one text behind the prefix.
        sentence_ids: (batch, sequence).
    """
    inside, steps = sentence_ids > 0, torch.arange(sentence_ids.shape[1], device=sentence_ids.device)
    before = torch.nn.functional.pad(sentence_ids[:, :-1], (1, 0))
    begin = torch.where(inside & (sentence_ids != before), steps, 0).cummax(dim=1).values
    first = torch.where(sentence_ids == 1, steps, len(steps)).amin(dim=1, keepdim=True)
    return positions - torch.where(inside, begin - first, 0).to(positions.device)


def token_counts(sentence_ids: torch.Tensor) -> torch.Tensor:
    """How many sequences of one sentence each token stands for, (batch, sequence)."""
    return torch.where(sentence_ids == 0, sentence_ids.amax(dim=1, keepdim=True).clamp(min=1), 1)
