"""SpaceVLLM as a model of lmms-eval: `--model spacevllm`, found by the entry point group `lmms_eval.models`."""

from typing import Any


def manifest() -> Any:
    """What lmms-eval asks every entry point of the group for; the model's module is loaded only when it is chosen."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("spacevllm", simple_class_path=f"{__name__}.model.SpaceVLLM")
