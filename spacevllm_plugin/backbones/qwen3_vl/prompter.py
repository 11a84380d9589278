"""Qwen3-VL: a timestamp before every frame, as the backbone was trained."""

from ...data.plan import VideoPlan
from ...modeling.configuration import STAQ_TOKEN
from ..prompter import Grid
from ..qwen.prompter import QwenPrompter
from .spec import SPEC


class Qwen3VLPrompter(QwenPrompter):
    """`<1.5 seconds><|vision_start|>…<|vision_end|><|staq|>` for every temporal patch."""

    image_token, video_token = SPEC.image_token, SPEC.video_token

    def video_text(self, plan: VideoPlan, grid: Grid) -> str:
        """See `Prompter`."""
        frame = f"{self.vision_start}{self.video_token * (grid.rows * grid.columns)}{self.vision_end}{STAQ_TOKEN}"
        return "".join(f"<{seconds:.1f} seconds>{frame}" for seconds in plan.seconds)
