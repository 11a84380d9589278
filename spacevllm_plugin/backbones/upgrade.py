"""From a plain backbone to SpaceVLLM: the config, and the classes that transformers' auto classes find for it."""

from functools import cache

from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

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
    renamings = get_checkpoint_conversion_mapping(spec.name)
    if renamings is not None:
        register_checkpoint_conversion_mapping(spec.model_type, renamings, overwrite=True)


def register_all() -> None:
    """Let transformers' auto classes load SpaceVLLM on any backbone: for scripts that do not go through LLaMA-Factory."""
    for spec in usable():
        register_model(spec)


def upgrade_config(config: PreTrainedConfig, staq_token_id: int) -> PreTrainedConfig:
    """Turn a plain backbone's config into the SpaceVLLM config of that backbone; ours is returned as it is.

    Raises:
        ValueError: The backbone is not one of ours, or its embedding has no row left for the placeholder token.
    """
    if isinstance(config, SpaceVLLMConfigMixin):
        upgraded = config
    else:
        values = config.to_dict()
        values.pop("model_type")
        upgraded = spec_of(config.model_type, config.name_or_path or "this config").config_class(**values)

    rows = upgraded.get_text_config().vocab_size
    if staq_token_id >= rows:
        raise ValueError(
            f"No room for the placeholder token {STAQ_TOKEN}: it would get id {staq_token_id}, but the model's embedding "
            f"has {rows} rows. Use a checkpoint whose embedding is padded beyond its tokenizer."
        )

    upgraded.staq_token_id = staq_token_id
    return upgraded
