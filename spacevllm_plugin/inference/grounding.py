"""From prompts to tubes: one batched generation, whose prefill gives the boxes and whose text gives the span."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ..backbones.prompter import ImagePlan, Prompter
from ..data.plan import VideoPlan
from ..data.schema import PIXEL_DECIMALS, SECOND_DECIMALS, PredictionRow
from ..data.span_parser import read_span, read_spans
from ..data.targets import pixel_box
from ..modeling.configuration import STAQ_TOKEN
from .batches import batched
from .items import GroundingItem
from .prefix import prefix_key, read_prefix, suffix_inputs


MAX_NEW_TOKENS = 64


def ground_batch(
    model: Any,
    prompter: Prompter,
    items: list[GroundingItem],
    max_new_tokens: int = MAX_NEW_TOKENS,
    rows_at_once: int | None = None,
) -> list[PredictionRow]:
    """Generate answers for a batch and read spans and boxes from them.

    Prompts that begin alike up to the end of their media, as sentences about one video do, share what is read of it, see
    `modeling.prefix`; the others make one batch.

    Args:
        model: A SpaceVLLM model, adapter-wrapped or not.
        prompter: The backbone's prompter.
        items: Prompts of any length and mixture of tasks.
        max_new_tokens: Longest answer, in tokens.
        rows_at_once: Most prompts in one generation; all of those that go together if not given.

    Returns:
        One prediction for each item, in order.

    Raises:
        MediaError: A picture cannot be read.
    """
    predictions: dict[int, PredictionRow] = {}
    for places, inputs in generations(model, prompter, items, rows_at_once):
        answers = _generate(model, prompter.processor.tokenizer, inputs, max_new_tokens)
        for place, answer in zip(places, answers):
            predictions[place] = make_prediction(items[place], *answer)

    return [predictions[place] for place in range(len(items))]


def generations(
    model: Any, prompter: Prompter, items: list[GroundingItem], rows_at_once: int | None = None
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """What is generated at once: places of some of the items, and the model's inputs for these, read as they are asked for.

    Args:
        model: As for `ground_batch`.
        prompter: The backbone's prompter.
        items: The prompts.
        rows_at_once: As for `ground_batch`.

    Raises:
        MediaError: A picture cannot be read.
    """
    size = rows_at_once or len(items)
    shared, apart = sharing(model, prompter, items)
    for places in shared:
        prefix = read_prefix(model, prompter, items[places[0]])
        for some in batched(places, size):
            yield some, suffix_inputs(prompter, prefix, [items[place] for place in some])

    for some in batched(apart, size):
        # The vision tower sees each medium once, where its room can tell it so.
        yield some, _padded(prompter, [items[place] for place in some], "media" in model.visual_inputs)


def sharing(model: Any, prompter: Prompter, items: list[GroundingItem]) -> tuple[list[list[int]], list[int]]:
    """Places of the items that share a prefix, group by group, and those of all others."""
    groups: dict[Any, list[int]] = {}
    for place, item in enumerate(items if model.shares_prefixes else []):
        groups.setdefault(prefix_key(prompter, item), []).append(place)

    shared = [places for key, places in groups.items() if key is not None and len(places) > 1]
    return shared, sorted(set(range(len(items))).difference(*shared))


def _padded(prompter: Prompter, items: list[GroundingItem], once: bool = False) -> dict[str, torch.Tensor]:
    pad = prompter.processor.tokenizer.pad_token_id
    length = max(len(item.token_ids) for item in items)
    inputs = {
        "input_ids": torch.tensor([[pad] * (length - len(item.token_ids)) + item.token_ids for item in items]),
        "attention_mask": torch.tensor(
            [[0] * (length - len(item.token_ids)) + [1] * len(item.token_ids) for item in items]
        ),
    }
    if any(item.images or item.videos for item in items):
        inputs |= prompter.model_inputs(
            *zip(*((item.token_ids, item.images, item.videos) for item in items)), once=once
        )

    return inputs


def _generate(
    model: Any, tokenizer: Any, inputs: dict[str, Any], max_new_tokens: int
) -> list[tuple[str, torch.Tensor | None]]:
    sink: list[torch.Tensor] = []
    inputs = on_device(model, inputs)
    output = model.generate(**inputs, box_sink=sink, **greedy_options(tokenizer, max_new_tokens))
    return split_answers(tokenizer, inputs["input_ids"], output, sink)


def on_device(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The model's inputs where the model is."""
    return {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }


def greedy_options(tokenizer: Any, max_new_tokens: int) -> dict[str, Any]:
    """What `generate` is told wherever rows are grounded: a span is not a matter of taste."""
    return {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "num_beams": 1,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def split_answers(
    tokenizer: Any, input_ids: torch.Tensor, output: torch.Tensor, sink: list[torch.Tensor]
) -> list[tuple[str, torch.Tensor | None]]:
    """Each row's text and boxes, (its queries, 4) or None, of one generation.

    Args:
        tokenizer: The model's tokenizer.
        input_ids: (batch, sequence), the prompts.
        output: (batch, sequence + new tokens).
        sink: What `generate` put into `box_sink`.
    """
    texts = tokenizer.batch_decode(output[:, input_ids.shape[1] :], skip_special_tokens=True)
    boxes = split_boxes(tokenizer, input_ids, sink)
    return [(text.strip(), own) for text, own in zip(texts, boxes)]


def split_boxes(tokenizer: Any, input_ids: torch.Tensor, sink: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """Each row's boxes, (its queries, 4) or None, of one generation; the arguments are those of `split_answers`."""
    counts = (input_ids == tokenizer.convert_tokens_to_ids(STAQ_TOKEN)).sum(dim=-1).tolist()
    return list(sink[0].cpu().split(counts)) if sink else [None] * len(counts)


def make_prediction(item: GroundingItem, text: str, boxes: torch.Tensor | None) -> PredictionRow:
    """Read one answer.

    Args:
        item: The prompt.
        text: The generated text.
        boxes: (queries, 4) normalised (cx, cy, w, h) of all the prompt's queries.
    """
    prediction = PredictionRow(id=item.id, text=text)
    if item.task == "qa":
        return prediction

    # The medium that carries the target in training, wherever it stands in the prompt.
    medium = item.images[0] if item.task == "rec" else item.videos[0]
    size = item.media or medium
    if item.task == "rec":
        prediction.frames = [0]
    else:
        span = read_span(text, medium)
        if span is None:
            prediction.status = "unreadable"
        else:
            prediction.span_seconds = _rounded(span, SECOND_DECIMALS)
            prediction.span_frames = medium.timeline.span_frames(prediction.span_seconds, medium.clip)
            spans = read_spans(text, medium)
            if item.task == "vtg" and len(spans) > 1:
                prediction.windows_seconds = [_rounded(window, SECOND_DECIMALS) for window in spans]

        if item.task == "stvg":
            prediction.frames = list(medium.frames)

    if prediction.frames is not None:
        prediction.boxes = [
            _rounded(pixel_box(box, size.width, size.height), PIXEL_DECIMALS)
            for box in _boxes_of(medium, item.plans, boxes).tolist()
        ]

    return prediction


def _boxes_of(medium: ImagePlan | VideoPlan, plans: list[ImagePlan | VideoPlan], boxes: torch.Tensor) -> torch.Tensor:
    parts = boxes.split([len(plan.frames) if isinstance(plan, VideoPlan) else 1 for plan in plans])
    return next(part for plan, part in zip(plans, parts) if plan is medium)


def _rounded(values: Iterable[float], decimals: int) -> tuple[float, ...]:
    return tuple(round(value, decimals) for value in values)
