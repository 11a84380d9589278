"""Hook on `extras.constants`: LlamaBoard's model list and the set of M-RoPE models."""

import sys
from types import ModuleType

from ..backbones import registry


def install(module: ModuleType) -> None:
    """Add our model types and models. Base checkpoints: the plugin adds the queries and the decoder on load."""
    for problem in registry.broken():
        print(f"spacevllm_plugin: {problem}", file=sys.stderr)

    for spec in registry.usable():
        if spec.mrope:
            module.MROPE_MODELS.add(spec.model_type)

        module.register_model_group(
            models={name: {module.DownloadSource.DEFAULT: hub_id} for name, hub_id in spec.hub_ids.items()},
            template=spec.template,
            multimodal=True,
        )
