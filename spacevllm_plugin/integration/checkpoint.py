"""Options that travel with checkpoints and adapters: written beside an adapter, read back from either."""

import json
import os
from pathlib import Path
from typing import Any

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from ..data.plan import Preprocessing
from ..modeling.configuration import GroundingOptions
from ..modeling.grounding_model import is_head


ADAPTER_FILE = "spacevllm_config.json"
ARCHITECTURE = ("staq_num_queries", "space_decoder_attention", "space_decoder_mlp_layers")


def write_adapter_options(config: PreTrainedConfig, directory: str) -> None:
    """Write the options beside an adapter, whose own config has no place for them."""
    with open(os.path.join(directory, ADAPTER_FILE), "w", encoding="utf-8") as file:
        json.dump({"grounding": config.grounding, "preprocessing": config.preprocessing}, file, indent=2)


def complete_converted(directory: Path) -> None:
    """Put the heads into the adapter that `pissa_convert` has made in a run's folder: peft converts LoRA alone."""
    converted = directory / "pissa_converted" / SAFETENSORS_WEIGHTS_NAME
    if converted.is_file():
        trained = load_file(directory / "pissa_backup" / SAFETENSORS_WEIGHTS_NAME)
        heads = {name: value for name, value in trained.items() if is_head(name)}
        save_file({**load_file(converted), **heads}, converted, metadata={"format": "pt"})


def read_recorded(model_args: Any) -> dict[str, Any]:
    """The options recorded with the last adapter, or else with the model; empty for a plain base model."""
    hub = {"cache_dir": model_args.cache_dir, "revision": model_args.model_revision, "token": model_args.hf_hub_token}
    recorded: dict[str, Any] = {}
    if model_args.adapter_name_or_path:
        path = cached_file(
            model_args.adapter_name_or_path[-1], ADAPTER_FILE, _raise_exceptions_for_missing_entries=False, **hub
        )
        if path is not None:
            with open(path, encoding="utf-8") as file:
                recorded = json.load(file)

    if not recorded:
        recorded, _ = PreTrainedConfig.get_config_dict(model_args.model_name_or_path, **hub)

    return {**(recorded.get("grounding") or {}), **(recorded.get("preprocessing") or {})}


def apply_recorded(model_args: Any, logger: Any) -> None:
    """Let the recorded options stand in for those that the user did not give.

    Raises:
        ValueError: The user asks for another architecture than the weights have.
    """
    ours = {*GroundingOptions.names(), *Preprocessing.names()}
    for name, value in read_recorded(model_args).items():
        if name not in ours or getattr(model_args, name) == value:
            continue

        if name not in model_args.given:
            setattr(model_args, name, value)
            logger.info_rank0(f"`{name}: {value}` comes with the checkpoint.")
        elif name in ARCHITECTURE:
            raise ValueError(
                f"`{name}: {getattr(model_args, name)}` does not fit this checkpoint, which was trained with {value}."
            )
        else:
            logger.warning_rank0(
                f"`{name}` is {getattr(model_args, name)}, but the checkpoint was trained with {value}."
            )
