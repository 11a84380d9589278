"""Embeddings as they come over HTTP, where there are no tensors."""

import base64
from typing import Any

from safetensors.torch import load


def unpacked(image_data: Any) -> Any:
    """The images of a request, with the tensors that SGLang's own processors take in place of their base64."""
    if not isinstance(image_data, list):
        return image_data

    return [_unpacked(item) if isinstance(item, dict) and "tensors" in item else item for item in image_data]


def _unpacked(item: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in item.items() if name != "tensors"}
    return {**rest, **load(base64.b64decode(item["tensors"]))}
