"""What chat and API keep of media between two questions about them, where `prefix_cache_gb` is above 0."""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel

from ..backbones.prompter import Prompter
from ..data.media import in_order
from ..inference.grounding import generations
from ..inference.items import GroundingItem
from ..inference.prefix import read_prefix, suffix_inputs
from ..inference.prefix_cache import PrefixCache, content_key
from ..modeling.prefix import VideoPrefix


_caches: WeakKeyDictionary = WeakKeyDictionary()  # of each loaded model, which takes its own with it
_lock = threading.Lock()
_call = threading.local()


def cache_of(model: Any, gigabytes: float) -> PrefixCache | None:
    """A model's cache; None where there is to be none, or the model cannot go on from a prefix."""
    if not gigabytes or not model.shares_prefixes:
        return None

    with _lock:
        return _caches.setdefault(model, PrefixCache(int(gigabytes * 1e9)))


@contextmanager
def media_later(later: bool) -> Iterator[None]:
    """While the block runs, this thread's prompts are made without their media being read, if so wanted."""
    before = reads_later()
    _call.later = later
    try:
        yield
    finally:
        _call.later = before


def reads_later() -> bool:
    """Whether this thread is in such a block."""
    return getattr(_call, "later", False)


def prompt_item(
    prompter: Prompter, inputs: torch.Tensor, messages: list[dict[str, str]], images: list[Any], videos: list[Any]
) -> GroundingItem:
    """A prompt that LLaMA-Factory has made.

    Args:
        prompter: The backbone's prompter.
        inputs: (1, sequence), its tokens.
        messages: The conversation, with its media tags.
        images: Its images.
        videos: Its videos.
    """
    image_plans, video_plans = prompter.plan(images, videos)
    plans = in_order(messages, image_plans, video_plans)
    return GroundingItem("", "qa", inputs[0].tolist(), image_plans, video_plans, plans)


def media_inputs(cache: PrefixCache, model: Any, prompter: Prompter, item: GroundingItem, options: Any) -> dict:
    """What `generate` gets of a prompt's media, of which nothing has been read so far.

    Args:
        cache: The model's.
        model: The model.
        prompter: The backbone's prompter.
        item: The prompt.
        options: Its `GenerationConfig`.

    Raises:
        MediaError: A picture cannot be read.
    """
    if not item.plans:
        return {}

    if (options.num_beams or 1) > 1 or (options.num_return_sequences or 1) > 1:
        # Several answers to one prompt are rows that the cache knows nothing of.
        inputs = prompter.model_inputs([item.token_ids], [item.images], [item.videos])
        return {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    prefix = _prefix(cache, _key(model, prompter, item), model, prompter, item)
    return {"past_key_values": _behind(prompter, prefix, [item])["past_key_values"]}


def cached_generations(
    cache: PrefixCache, model: Any, prompter: Prompter, items: list[GroundingItem]
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """As `inference.grounding.generations`, with every prefix from the cache, or into it: each is a generation of its own.

    Args:
        cache: The model's.
        model: The model.
        prompter: The backbone's prompter.
        items: The prompts.

    Raises:
        MediaError: A picture cannot be read.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(_key(model, prompter, item) if item.plans else None, []).append(place)

    for key, places in groups.items():
        some = [items[place] for place in places]
        if key is None:
            ((_, inputs),) = generations(model, prompter, some)
            yield places, inputs
        else:
            yield places, _behind(prompter, _prefix(cache, key, model, prompter, some[0]), some)


def _key(model: Any, prompter: Prompter, item: GroundingItem) -> Hashable:
    return model.active_adapter if isinstance(model, PeftModel) else None, content_key(prompter, item)


def _prefix(cache: PrefixCache, key: Hashable, model: Any, prompter: Prompter, item: GroundingItem) -> VideoPrefix:
    with torch.inference_mode(False):  # see `_behind`
        return cache.get(key, lambda: read_prefix(model, prompter, item))


def _behind(prompter: Prompter, prefix: VideoPrefix, items: list[GroundingItem]) -> dict[str, Any]:
    # Streams generate outside of LLaMA-Factory's inference mode, whose tensors could not be written to there.
    with torch.inference_mode(False):
        return suffix_inputs(prompter, prefix, items)
