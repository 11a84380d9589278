"""Qwen2.5-VL: one vision block per video, a query after every temporal patch, times in a sentence behind it."""

from ...data.plan import VideoPlan
from ...data.prompts import time_sentence
from ...modeling.configuration import STAQ_TOKEN
from ..prompter import Grid
from ..qwen.prompter import QwenPrompter
from .spec import SPEC


class Qwen2_5VLPrompter(QwenPrompter):
    """`<|vision_start|>…<|staq|>…<|staq|><|vision_end|>` and the frame times."""

    image_token, video_token = SPEC.image_token, SPEC.video_token

    def video_text(self, plan: VideoPlan, grid: Grid) -> str:
        """See `Prompter`."""
        frame = f"{self.video_token * (grid.rows * grid.columns)}{STAQ_TOKEN}"
        return self.vision_start + frame * len(plan.groups)

    def video_suffix(self, plan: VideoPlan) -> str:
        """See `Prompter`."""
        return f"{self.vision_end}{time_sentence(plan.duration, plan.seconds)}\n"
