"""InternVL: square tiles, one a frame, numbered as the backbone was trained; a sentence behind them says their times."""

import math

import torch
from PIL import Image

from ...data.plan import VideoPlan
from ...data.prompts import time_sentence
from ...modeling.configuration import STAQ_TOKEN
from ..prompter import FRAMES_AT_ONCE, Grid, ImagePlan, Prompter, joined, pixels
from .spec import SPEC


class InternVLPrompter(Prompter):
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

    def video_suffix(self, plan: VideoPlan) -> str:
        """See `Prompter`."""
        return f"\n{time_sentence(plan.duration, plan.seconds)}\n"

    def resizing(self, plan: VideoPlan | ImagePlan) -> tuple:
        """See `Prompter`."""
        own = self.processor.video_processor
        return str(own.size), int(own.resample)

    def resize(self, plan: VideoPlan | ImagePlan, picture: Image.Image) -> torch.Tensor:
        """See `Prompter`. Boxes are normalised, so a square loses nothing but sharpness."""
        own = self.processor.video_processor
        return own.resize(pixels(picture)[None], size=own.size, resample=own.resample)[0]

    def tensors(
        self, plans: list[VideoPlan | ImagePlan], pictures: list[torch.Tensor], grids: list[Grid]
    ) -> dict[str, torch.Tensor]:
        """See `Prompter`. Images are treated as frames: one whole tile, no high-resolution crops."""
        own = self.processor.video_processor
        processed = (
            own(videos=[some], do_resize=False, do_sample_frames=False, return_tensors="pt")["pixel_values_videos"][0]
            for frames in pictures
            for some in frames.split(FRAMES_AT_ONCE)
        )
        return {"pixel_values": joined(processed, sum(map(len, pictures)))}
