"""InternVL: square tiles, one a frame, numbered as the backbone was trained; a sentence behind them says their times."""

import math

from ...data.plan import VideoPlan
from ...modeling.configuration import STAQ_TOKEN
from ..prompter import Grid, ImagePlan
from ..squares import SquarePrompter
from .spec import SPEC


class InternVLPrompter(SquarePrompter):
    """`Frame1: <img>…</img><|staq|>` for every frame, a line each.

    InternVL writes its image's token for frames, too. Here they get the tokenizer's `<video>`, so that a prompt says
    which is which; features take the places of both before anything is looked up.
    """

    image_token, video_token = SPEC.image_token, SPEC.video_token

    def grid(self, plan: VideoPlan | ImagePlan) -> Grid:
        """See `Prompter`."""
        side = math.isqrt(self.processor.image_seq_length)
        return Grid(side, side, side)

    def video_text(self, plan: VideoPlan, grid: Grid) -> str:
        """See `Prompter`."""
        tile = self._tile(self.video_token, grid)
        return "\n".join(f"Frame{number}: {tile}" for number in range(1, len(plan.groups) + 1))

    def image_text(self, grid: Grid) -> str:
        """See `Prompter`."""
        return self._tile(self.image_token, grid)

    def _tile(self, token: str, grid: Grid) -> str:
        start, end = self.processor.start_image_token, self.processor.end_image_token
        return f"{start}{token * (grid.rows * grid.columns)}{end}{STAQ_TOKEN}"
