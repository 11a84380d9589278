"""Qwen2-VL: one vision block per video, a query after every temporal patch, times in a sentence behind it."""

from spacevllm_plugin.backbones.prompter import Grid
from spacevllm_plugin.backbones.qwen.prompter import QwenPrompter
from spacevllm_plugin.data.plan import VideoPlan
from spacevllm_plugin.data.prompts import time_sentence
from spacevllm_plugin.modeling.configuration import STAQ_TOKEN

from .spec import SPEC


class Qwen2VLPrompter(QwenPrompter):
    """`<|vision_start|>…<|staq|>…<|staq|><|vision_end|>` and the frame times."""

    image_token, video_token = SPEC.image_token, SPEC.video_token

    def video_text(self, plan: VideoPlan, grid: Grid) -> str:
        """See `Prompter`."""
        return self.vision_start + f"{self.video_token * (grid.rows * grid.columns)}{STAQ_TOKEN}" * len(plan.groups)

    def video_suffix(self, plan: VideoPlan) -> str:
        """See `Prompter`."""
        return f"{self.vision_end}{time_sentence(plan.duration, plan.seconds)}\n"
