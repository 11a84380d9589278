"""Generation that also hands out the boxes of its own prefill."""

import threading
from typing import Any

import torch
from transformers import LogitsProcessorList


# Generation runs in one thread from the prefill to the last token; several may run at once in a server.
_generation = threading.local()


def keep_prefill_boxes(boxes: torch.Tensor) -> None:
    """Called by `forward` in a prefill: hands the boxes out before the first token, in time for any streamer."""
    sink = getattr(_generation, "sink", None)
    if sink is not None:
        # Beams and further return sequences share their prompt, and so its boxes.
        rows = boxes.detach().split(_generation.sizes) if _generation.copies > 1 else [boxes.detach()]
        sink.append(torch.cat(rows[:: _generation.copies]))
        _generation.sink = None  # without a cache every step is a prefill


class _VocabularyOnly(LogitsProcessorList):
    """Shows the processors no placeholder that has no score: some, as for repetitions, look up the score of each token."""

    def __init__(self, processors: LogitsProcessorList, instead: int) -> None:
        super().__init__(processors)
        self.instead = instead

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.FloatTensor:
        return super().__call__(input_ids.masked_fill(input_ids >= scores.shape[-1], self.instead), scores, **kwargs)


class SpaceVLLMGenerationMixin:
    """Adds `box_sink` to `generate`; named so that LLaMA-Factory does not take it for a `generate` to replace."""

    def generate(self, *args: Any, box_sink: list[torch.Tensor] | None = None, **kwargs: Any) -> Any:
        """Generate as transformers does.

        Args:
            *args: As for `GenerationMixin.generate`.
            box_sink: Receives the boxes of all query tokens, (total_queries, 4) normalised (cx, cy, w, h) in order of
                appearance in the prompts given, whatever the beams; nothing where the prompt has no query. They come
                out of the prefill that generation runs anyway: no token and no second pass is spent on them.
            **kwargs: As for `GenerationMixin.generate`.
        """
        # Tokens that stand for media and queries are never an answer, and one in a history would break the next turn.
        kwargs.setdefault("suppress_tokens", [self.config.staq_token_id, *self.visual_token_ids])
        _generation.sink, _generation.sizes, _generation.copies = box_sink, None, 1
        try:
            return super().generate(*args, **kwargs)
        finally:
            _generation.sink = None

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        # An image's token is in every vocabulary, and is no answer either.
        return _VocabularyOnly(super()._get_logits_processor(*args, **kwargs), self.visual_token_ids[0])

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        # Tensors with one line per query must be repeated row by row of the batch, not line by line.
        flat = {name: model_kwargs.pop(name) for name in self.per_query_inputs if model_kwargs.get(name) is not None}
        if flat and expand_size > 1:
            counts = (input_ids == self.config.staq_token_id).sum(dim=-1).tolist()
            _generation.sizes, _generation.copies = (
                [count for count in counts for _ in range(expand_size)],
                expand_size,
            )
            for name, value in flat.items():
                rows = [part for part in value.split(counts) for _ in range(expand_size)]
                flat[name] = torch.cat(rows)

        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **flat}
