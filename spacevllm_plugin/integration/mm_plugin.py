"""Hook on `data.mm_plugin`: visual tokens and queries for `<video>` and `<image>`, tensors for the model."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..backbones import registry
from ..backbones.prompter import Prompter
from .options import RunOptions
from .prefix_cache import reads_later


PLUGIN_NAME = "spacevllm"


def install(module: ModuleType) -> None:
    """Register the plugin."""

    @dataclass
    class SpaceVLLMPlugin(module.BasePlugin):
        """A thin adapter from LLaMA-Factory's plugin interface to a backbone's prompter."""

        backbone: str = ""

        def prompter(self, processor: Any) -> Prompter:
            """The backbone's prompter, with the options that the processor carries."""
            spec, found = registry.get(self.backbone), type(processor).__name__
            if found != spec.processor_class:
                raise ValueError(
                    f"Template `{spec.template}` is for checkpoints with a {spec.processor_class}, but this one has "
                    f"{'no processor' if processor is None else 'a ' + found}: template and model do not match."
                )

            options = RunOptions.on(processor)
            return spec.prompter_class(
                processor, options.preprocessing, options.grounding, options.frame_cache, options.indexes
            )

        def process_messages(self, messages, images, videos, audios, processor):
            self._validate_input(processor, images, videos, audios)
            prompter = self.prompter(processor)
            return prompter.expand_messages(messages, *prompter.plan(images, videos))

        def get_mm_inputs(self, images, videos, audios, imglens, vidlens, audlens, batch_ids, processor):
            self._validate_input(processor, images, videos, audios)
            if not images and not videos or reads_later():
                return {}

            prompter = self.prompter(processor)
            image_plans, video_plans = map(iter, prompter.plan(images, videos))
            return prompter.model_inputs(
                batch_ids,
                [[next(image_plans) for _ in range(count)] for count in imglens],
                [[next(video_plans) for _ in range(count)] for count in vidlens],
            )

    module.register_mm_plugin(PLUGIN_NAME, SpaceVLLMPlugin)
