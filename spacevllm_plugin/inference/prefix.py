"""Sentences about the same media: which prompts begin alike, and what is given to the model to read that once."""

from collections.abc import Hashable
from typing import Any

import torch

from ..backbones.prompter import Prompter, medium_key
from ..modeling.prefix import Suffixes, VideoPrefix
from .items import GroundingItem


def prefix_key(prompter: Prompter, item: GroundingItem) -> Hashable | None:
    """What prompts have in common that can share a prefix: its tokens and its media; None for a prompt without media."""
    if not item.plans:
        return None

    length = prompter.prefix_length(item.token_ids, item.plans[-1])
    return tuple(item.token_ids[:length]), tuple(map(medium_key, item.plans))


@torch.no_grad()
def read_prefix(model: Any, prompter: Prompter, item: GroundingItem) -> VideoPrefix:
    """Read one prompt up to the end of its last medium: its media decoded, the vision tower and the language model once.

    Args:
        model: A SpaceVLLM model that `shares_prefixes`, adapter-wrapped or not.
        prompter: The backbone's prompter.
        item: Any of the prompts that have the prefix.

    Raises:
        MediaError: A picture cannot be read.
    """
    inputs = prompter.model_inputs([item.token_ids], [item.images], [item.videos])
    length = prompter.prefix_length(item.token_ids, item.plans[-1])
    input_ids = torch.tensor([item.token_ids[:length]], device=model.device)
    prefix = VideoPrefix(model.config.get_text_config(decoder=True))
    model(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        past_key_values=prefix,
        use_cache=True,
        logits_to_keep=1,
        **{name: value.to(model.device) for name, value in inputs.items()},
    )
    return prefix


def suffix_inputs(prompter: Prompter, prefix: VideoPrefix, items: list[GroundingItem]) -> dict[str, Any]:
    """What `generate` needs of prompts behind their prefix; padding stands between the two.

    Args:
        prompter: The backbone's prompter.
        prefix: What all of them begin with.
        items: The prompts.
    """
    pad, begin = prompter.processor.tokenizer.pad_token_id, prefix.input_ids.shape[1]
    longest = max(len(item.token_ids) for item in items)
    rows, masks = [], []
    for item in items:
        padding = longest - len(item.token_ids)
        rows.append(item.token_ids[:begin] + [pad] * padding + item.token_ids[begin:])
        masks.append([1] * begin + [0] * padding + [1] * (len(item.token_ids) - begin))

    device = prefix.input_ids.device
    layouts = [prompter.layout(item.token_ids, item.images, item.videos) for item in items]
    return {
        "input_ids": torch.tensor(rows, device=device),
        "attention_mask": torch.tensor(masks, device=device),
        "past_key_values": Suffixes(prefix, layouts),
    }
