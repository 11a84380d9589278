"""The collator: LLaMA-Factory's own, with each query's target and the positions our models define."""

import math
from collections.abc import Callable
from typing import Any

import torch

from ..data.video import MediaError
from ..modeling.box_bits import to_bits
from ..modeling.configuration import STAQ_TOKEN
from ..modeling.sentences import sentence_positions
from .options import RunOptions
from .sentences import sentence_inputs


def grounding_collator(base: type) -> type:
    """Our collator class over LLaMA-Factory's `SFTDataCollatorWith4DAttentionMask`."""

    class GroundingCollator(base):
        """Adds `box_targets`, (total_queries, 4) normalised (cx, cy, w, h), NaN where a query has no target, as `to_bits`.

        A row whose media cannot be read raises, or with `bad_media: skip` becomes a row that teaches nothing.
        """

        skipped = 0

        def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            features = [dict(feature) for feature in features]
            targets = [feature.pop("box_targets", []) for feature in features]
            sentences = [
                list(zip(feature.pop("sentence_lengths", []), feature.pop("caption_lengths", [])))
                for feature in features
            ]
            for feature in features:
                feature.pop("annotation", None)

            skip = RunOptions.on(self.processor).training.bad_media == "skip"
            batch = self._collate_readable(features, targets, sentences) if skip else super().__call__(features)
            self._add_targets(batch, targets)
            if "position_ids" in batch:
                # The first of the four rows is for telling packed texts apart: it must count on without a gap.
                text_positions = (batch["attention_mask"].long().cumsum(dim=-1) - 1).clamp(min=0)
                batch["position_ids"][0] = text_positions

            if any(sentences):
                self._add_sentences(batch, sentences)

            return batch

        def _collate_readable(
            self, features: list[dict[str, Any]], targets: list[list[float]], sentences: list[list]
        ) -> dict[str, Any]:
            try:
                return super().__call__([dict(feature) for feature in features])
            except MediaError:
                pass

            for i, feature in enumerate(features):
                try:
                    super().__call__([dict(feature)])
                except MediaError as err:
                    type(self).skipped += 1
                    print(f"Skipped ({self.skipped} so far): {err}", flush=True)
                    # One token without a label keeps the batch's shape and teaches nothing.
                    token = self.tokenizer.eos_token_id
                    features[i] = {"input_ids": [token], "attention_mask": [1], "labels": [-100]}
                    targets[i], sentences[i] = [], []

            return super().__call__(features)

        def _add_targets(self, batch: dict[str, torch.Tensor], targets: list[list[float]]) -> None:
            if "staq_layout" not in batch:
                return

            staq_id = self.tokenizer.convert_tokens_to_ids(STAQ_TOKEN)
            lines = []
            for ids, values in zip(batch["input_ids"], targets):
                boxes = [values[i : i + 4] for i in range(0, len(values), 4)]
                # The stand-in image of a batch without media brings a query that no row knows of.
                missing = int((ids == staq_id).sum()) - len(boxes)
                lines += boxes + [[math.nan] * 4] * missing

            batch["box_targets"] = to_bits(torch.tensor(lines, dtype=torch.float32))

        def _add_sentences(self, batch: dict[str, torch.Tensor], sentences: list[list[tuple[int, int]]]) -> None:
            steps = torch.arange(batch["input_ids"].shape[1])
            ends = torch.where(batch["attention_mask"].bool(), steps, -1).amax(dim=1) + 1
            begins = [int(end) - sum(length for length, _ in parts) for end, parts in zip(ends, sentences)]
            is_query = batch["input_ids"] == self.tokenizer.convert_tokens_to_ids(STAQ_TOKEN)
            batch.update(sentence_inputs(is_query, batch["staq_layout"], begins, sentences))
            if "position_ids" in batch:
                batch["position_ids"] = sentence_positions(batch["position_ids"], batch["sentence_ids"])

        def _compute_rope_position_ids(self, features: dict[str, torch.Tensor], mm_inputs: dict[str, Any]) -> None:
            rope: Callable = self.get_rope_func
            features["position_ids"], features["rope_deltas"] = rope(
                features["input_ids"],
                image_grid_thw=mm_inputs.get("image_grid_thw"),
                video_grid_thw=mm_inputs.get("video_grid_thw"),
                attention_mask=features["attention_mask"],
                staq_layout=mm_inputs["staq_layout"],
            )

    return GroundingCollator
