"""Hook on `extras.constants`: LlamaBoard's model list and the set of M-RoPE models."""

from types import ModuleType


# template -> {name in LlamaBoard: hub id}. Base checkpoints: the plugin adds the queries and the decoder on load.
MODEL_GROUPS = {
    "spacevllm": {
        "SpaceVLLM-LLaVA-OneVision-0.5B": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "SpaceVLLM-LLaVA-OneVision-7B": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    },
    "spacevllm_qwen3_vl": {
        "SpaceVLLM-Qwen3-VL-2B": "Qwen/Qwen3-VL-2B-Instruct",
        "SpaceVLLM-Qwen3-VL-4B": "Qwen/Qwen3-VL-4B-Instruct",
        "SpaceVLLM-Qwen3-VL-8B": "Qwen/Qwen3-VL-8B-Instruct",
    },
    "spacevllm_qwen2_5_vl": {
        "SpaceVLLM-Qwen2.5-VL-3B": "Qwen/Qwen2.5-VL-3B-Instruct",
        "SpaceVLLM-Qwen2.5-VL-7B": "Qwen/Qwen2.5-VL-7B-Instruct",
    },
}


def install(module: ModuleType) -> None:
    """Add our model types and models."""
    module.MROPE_MODELS.update({"spacevllm_qwen3_vl", "spacevllm_qwen2_5_vl"})
    for template, models in MODEL_GROUPS.items():
        module.register_model_group(
            models={name: {module.DownloadSource.DEFAULT: hub_id} for name, hub_id in models.items()},
            template=template,
            multimodal=True,
        )
