"""From a plain backbone to SpaceVLLM: the config, and the classes that transformers' auto classes find for it."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from ..modeling.configuration import STAQ_TOKEN, SpaceVLLMConfigMixin
from .registry import UnknownBackbone, names, of_model_type, usable
from .spec import BackboneSpec


def spec_of(model_type: str, model: str) -> BackboneSpec:
    """The backbone of a checkpoint.

    Args:
        model_type: The checkpoint's.
        model: The checkpoint's name, for the message.

    Raises:
        UnknownBackbone: It is none of ours, or the installed transformers does not have it.
    """
    spec = of_model_type(model_type)
    if spec is None:
        raise UnknownBackbone(
            f"SpaceVLLM has no backbone for {model} (model type `{model_type}`); it has: {', '.join(names())}."
        )

    problem = spec.find_problem()
    if problem is not None:
        raise UnknownBackbone(f"{model}: {problem}.")

    return spec


def register_configs() -> None:
    """Let `AutoConfig` read SpaceVLLM checkpoints on any backbone that can be used here."""
    for spec in usable():
        AutoConfig.register(spec.model_type, spec.config_class, exist_ok=True)


@cache
def register_model(spec: BackboneSpec) -> None:
    """Let `AutoModelForImageTextToText` load SpaceVLLM on this backbone; imports its classes."""
    AutoConfig.register(spec.model_type, spec.config_class, exist_ok=True)
    AutoModelForImageTextToText.register(spec.config_class, spec.model_class, exist_ok=True)
    # Checkpoints of the hub have older names for some weights; transformers knows the new ones by model type.
    renamings = get_checkpoint_conversion_mapping(spec.name) or []
    renamings += [WeightRenaming(*names) for names in spec.model_class.weight_names.items()]
    if renamings:
        register_checkpoint_conversion_mapping(spec.model_type, renamings, overwrite=True)


def register_all() -> None:
    """Let transformers' auto classes load SpaceVLLM on any backbone: for scripts that do not go through LLaMA-Factory."""
    for spec in usable():
        register_model(spec)


def placeholder_ids(spec: BackboneSpec, tokenizer: Any) -> dict[str, int]:
    """Ids of the tokens that stand for queries and visual tokens in a prompt, by their names in a config.

    They may lie behind the embedding's last row: nothing looks them up there.
    """
    tokens = {"staq_token_id": STAQ_TOKEN, "image_token_id": spec.image_token, "video_token_id": spec.video_token}
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def upgrade_config(config: PreTrainedConfig, placeholders: Mapping[str, int]) -> PreTrainedConfig:
    """Turn a plain backbone's config into the SpaceVLLM config of that backbone; ours is returned as it is.

    Args:
        config: The checkpoint's.
        placeholders: See `placeholder_ids`; where a config has an id of its own for visual tokens, that one holds.

    Raises:
        UnknownBackbone: The backbone is not one of ours.
    """
    if isinstance(config, SpaceVLLMConfigMixin):
        upgraded = config
    else:
        values = config.to_dict()
        values.pop("model_type")
        upgraded = spec_of(config.model_type, config.name_or_path or "this config").config_class(**values)

    upgraded.staq_token_id = placeholders["staq_token_id"]
    for name, token_id in placeholders.items():
        if getattr(upgraded, name, None) is None:  # not every backbone's config knows a token for videos
            setattr(upgraded, name, token_id)

    return upgraded
