"""An engine that is none: an export's stock class of transformers, asked as vLLM and SGLang ask theirs."""

from types import SimpleNamespace

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer


class StockEngine:
    """The language model of an export, as an engine runs it: by token ids, and embeddings in the places of pictures."""

    def __init__(self, folder):
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        assert type(self.model).__module__.startswith("transformers.models.")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def inputs(self, token_ids, pictures):
        """For the stock class.

        Args:
            token_ids: With a token for each visual one.
            pictures: (embeds, grid) of each.
        """
        ids = torch.tensor([token_ids])
        is_picture = ids == self._picture_token
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if pictures:
            # What its own tower would give it.
            embeds = torch.cat([embeds for embeds, _ in pictures])
            features, *further = embeds.split(self.model.config.get_text_config().hidden_size, dim=-1)
            found = SimpleNamespace(pooler_output=[features], deepstack_features=further)
            if self.model.config.model_type == "internvl":
                found.pooler_output = features

            self.model.model.get_image_features = lambda *args, **kwargs: found
            inputs["pixel_values"] = torch.zeros(1)

        if pictures and pictures[0][1] is not None:
            grids = torch.tensor([grid for _, grid in pictures])
            inputs |= {"image_grid_thw": grids, "mm_token_type_ids": is_picture.long()}

        return inputs

    @property
    def _picture_token(self):
        return self.model.config.image_token_id

    @torch.no_grad()
    def states(self, inputs):
        """All layers' inputs, (layers + 1, sequence, d) with the last layer's output behind the final norm, and that before it."""
        before = []
        handle = self.model.model.language_model.norm.register_forward_pre_hook(lambda _, args: before.append(args[0]))
        try:
            output = self.model(**inputs, output_hidden_states=True)
        finally:
            handle.remove()

        return torch.cat(output.hidden_states), before[0][0]

    @torch.no_grad()
    def generate(self, inputs, suppressed, max_new_tokens):
        """Greedy: the new tokens."""
        output = self.model.generate(
            **inputs, suppress_tokens=suppressed or None, do_sample=False, max_new_tokens=max_new_tokens
        )
        return output[0, inputs["input_ids"].shape[1] :].tolist()
