"""Loads a model to ground with by LLaMA-Factory's own loaders: adapters, quantisation and all."""

from typing import Any

from ..backbones.upgrade import spec_of
from ..inference.engine import Engine


def template_for(model_name_or_path: str) -> str:
    """The template that a checkpoint needs, from its model type.

    Raises:
        UnknownBackbone: It is none of ours.
    """
    from transformers import PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(model_name_or_path)
    return spec_of(str(config.get("model_type")), model_name_or_path).template


def load_engine(model: str, adapter: str | None = None, **arguments: Any) -> Engine:
    """Load a checkpoint, with an adapter if given.

    Args:
        model: Checkpoint folder or hub id: a SpaceVLLM export, or the base of `adapter`.
        adapter: Adapter folder.
        **arguments: Further LLaMA-Factory arguments, by their YAML names.

    Raises:
        ValueError: The model and the template or adapter do not fit.
    """
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import get_infer_args
    from llamafactory.model import load_model, load_tokenizer

    given = {"model_name_or_path": model, "template": template_for(model), **arguments}
    if adapter is not None:
        given["adapter_name_or_path"] = adapter

    model_args, data_args, finetuning_args, _ = get_infer_args(given)
    tokenizer_module = load_tokenizer(model_args)
    tokenizer, processor = tokenizer_module["tokenizer"], tokenizer_module["processor"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    loaded = load_model(tokenizer, model_args, finetuning_args)
    return Engine(loaded, template, processor, template.mm_plugin.prompter(processor))
