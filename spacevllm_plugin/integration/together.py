"""Several requests to chat and API, answered by as few generations as their media allow."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from ..backbones.prompter import Prompter
from ..inference.grounding import generations, on_device, split_boxes
from ..inference.items import GroundingItem
from ..inference.prefix_cache import PrefixCache
from .prefix_cache import cached_generations


@dataclass(frozen=True)
class Prompt:
    """One request as LLaMA-Factory has prepared it, its media not yet read.

    Attributes:
        item: Tokens and media.
        reply: Its `TubeReply`.
        config: How it is to be generated; that of all requests answered together.
    """

    item: GroundingItem
    reply: Any
    config: GenerationConfig


@dataclass(frozen=True)
class Answer:
    """What was generated for one request.

    Attributes:
        text: The text and the JSON block.
        length: Tokens of the text, with the one that ends it.
        ended: Whether it ends by itself.
    """

    text: str
    length: int
    ended: bool


def answer_together(
    model: Any, prompter: Prompter, prompts: list[Prompt], cache: PrefixCache | None = None
) -> list[Answer]:
    """Answer several prompts. Those about the same media share what is read of it, the others make one batch.

    Args:
        model: A SpaceVLLM model, adapter-wrapped or not.
        prompter: The backbone's prompter.
        prompts: The prompts.
        cache: The model's prefixes, if there are any to be kept: then each medium's prompts are a generation of their own.

    Returns:
        An answer for each prompt, in order.

    Raises:
        MediaError: A picture of any of them cannot be read.
    """
    items, tokenizer = [prompt.item for prompt in prompts], prompter.processor.tokenizer
    if cache is None:
        parts = generations(model, prompter, items)
    else:
        parts = cached_generations(cache, model, prompter, items)

    answers: dict[int, Answer] = {}
    for places, inputs in parts:
        inputs, sink, config = on_device(model, inputs), [], prompts[places[0]].config
        output = model.generate(**inputs, generation_config=config, box_sink=sink)
        new = output[:, inputs["input_ids"].shape[1] :]
        for place, ids, boxes in zip(places, new, split_boxes(tokenizer, inputs["input_ids"], sink)):
            answers[place] = _read(tokenizer, prompts[place], ids, boxes)

    return [answers[place] for place in range(len(prompts))]


def _read(tokenizer: Any, prompt: Prompt, ids: torch.Tensor, boxes: torch.Tensor | None) -> Answer:
    # Behind the end of its answer a row is padded until the longest has ended.
    ends = torch.isin(ids, torch.tensor(prompt.config.eos_token_id, device=ids.device)).nonzero()
    ids = ids[: ends[0].item() + 1] if len(ends) else ids
    if prompt.item.plans:
        prompt.reply.sink.append(boxes)

    # As LLaMA-Factory reads an answer of one row.
    skip = getattr(prompt.config, "skip_special_tokens", True)
    text = tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=True)
    ended = bool((ids == tokenizer.eos_token_id).any())
    return Answer("".join(prompt.reply.complete([text])), len(ids), ended)
