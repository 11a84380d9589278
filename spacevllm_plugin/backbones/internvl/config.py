"""The configuration of a SpaceVLLM checkpoint on InternVL."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import InternVLConfig

from ...modeling.configuration import SpaceVLLMConfigMixin


@strict
class SpaceVLLMInternVLConfig(SpaceVLLMConfigMixin, InternVLConfig):
    """SpaceVLLM on InternVL."""

    model_type = "spacevllm_internvl"
    staq_token_id: int | None = None
    video_token_id: int | None = None  # InternVL itself writes the image's token for frames, too
    grounding: dict | None = None
    preprocessing: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # The hub's configs say it in the language model's part alone, and for most sizes it is not so.
        self.tie_word_embeddings = self.tie_word_embeddings and self.text_config.tie_word_embeddings
