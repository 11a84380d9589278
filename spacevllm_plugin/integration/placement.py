"""Where a model to ask goes: onto one GPU if it fits, since spread over all it only waits for copies."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..backbones import registry


# What weights may take of a GPU's free memory: a 7B model in bf16 (15.4 GiB) has grounded 64 frames in 18.9 GiB.
WEIGHTS_SHARE = 0.75


def first_with_room(weights: int, free: Iterable[tuple[int, int]]) -> int | None:
    """The first GPU that holds all weights with room to spare.

    Args:
        weights: Bytes.
        free: Index and free bytes of each GPU; read no further than to the first that fits.

    Returns:
        Its index; None if there is no such GPU.
    """
    return next((gpu for gpu, memory in free if weights <= WEIGHTS_SHARE * memory), None)


def weight_bytes(config: PreTrainedConfig) -> int:
    """Bytes of a model's weights in the precision they are stored in; from their shapes alone, nothing is loaded."""
    with torch.device("meta"):
        model = registry.of_model_type(config.model_type).model_class(copy.deepcopy(config))

    return sum(p.numel() for p in model.parameters()) * (config.dtype or torch.float32).itemsize


def keep_on_one_gpu(config: PreTrainedConfig, init_kwargs: dict[str, Any]) -> None:
    """Replace LLaMA-Factory's `device_map: auto`, which spreads any model over all GPUs, if one GPU is enough.

    Quantised models stay where `quantization_device_map` has them.
    """
    quantised = init_kwargs.get("quantization_config") is not None
    if init_kwargs.get("device_map") != "auto" or quantised or torch.cuda.device_count() < 2:
        return

    gpus = range(torch.cuda.device_count())
    gpu = first_with_room(weight_bytes(config), ((gpu, torch.cuda.mem_get_info(gpu)[0]) for gpu in gpus))
    if gpu is not None:
        init_kwargs["device_map"] = {"": gpu}
