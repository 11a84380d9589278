"""LLaVA-OneVision / LLaVA-Video: square pictures, pooled frames, LLaVA-Video's own sentence of frame times."""

import math

from ...data.plan import VideoPlan
from ...modeling.configuration import STAQ_TOKEN
from ..prompter import Grid, ImagePlan
from ..squares import SquarePrompter
from .spec import SPEC


class LlavaOnevisionPrompter(SquarePrompter):
    """Every picture is resized to the vision tower's square."""

    image_token, video_token = SPEC.image_token, SPEC.video_token

    def grid(self, plan: VideoPlan | ImagePlan) -> Grid:
        """See `Prompter`."""
        side = math.isqrt(self.processor.num_image_tokens)
        if isinstance(plan, ImagePlan):
            return Grid(side, side, side)

        if self.grounding.frame_tokens == "llava_video":
            return Grid(side // 2, side // 2, side // 2 + 1)  # one newline token a row

        side = math.ceil(side / 2)
        return Grid(side, side, side)

    def video_text(self, plan: VideoPlan, grid: Grid) -> str:
        """See `Prompter`."""
        frames = [self.video_token * (grid.rows * grid.stride)] * len(plan.groups)
        if grid.stride == grid.columns:
            frames[-1] += self.video_token  # one newline token a video

        return STAQ_TOKEN.join(frames) + STAQ_TOKEN

    def image_text(self, grid: Grid) -> str:
        """See `Prompter`."""
        return self.image_token * (grid.rows * grid.columns + 1) + STAQ_TOKEN  # and a newline token
