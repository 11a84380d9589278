"""SGLang's processor of the Qwen-VL family, which takes embeddings in the engine's process alone, for requests over HTTP."""

from typing import Any

from sglang.srt.multimodal.processors.qwen_vl import QwenVLImageProcessor

from .tensors import unpacked


class SpaceVLLMQwenProcessor(QwenVLImageProcessor):
    """Serves the models that the other one serves."""

    async def process_mm_data_async(self, image_data: Any, *args: Any, **kwargs: Any) -> Any:
        """As in SGLang."""
        return await super().process_mm_data_async(unpacked(image_data), *args, **kwargs)
