"""LLaVA-OneVision / LLaVA-Video: square pictures, pooled frames, LLaVA-Video's own sentence of frame times."""

import math

import torch
from PIL import Image

from ...data.plan import VideoPlan
from ...data.prompts import time_sentence
from ...modeling.configuration import STAQ_TOKEN
from ..prompter import FRAMES_AT_ONCE, Grid, ImagePlan, Prompter, joined, pixels
from .spec import SPEC


class LlavaOnevisionPrompter(Prompter):
    """Every picture is resized to the vision tower's square; boxes are normalised, so nothing is lost but sharpness."""

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

    def video_suffix(self, plan: VideoPlan) -> str:
        """See `Prompter`."""
        return f"\n{time_sentence(plan.duration, plan.seconds)}\n"

    def resizing(self, plan: VideoPlan | ImagePlan) -> tuple:
        """See `Prompter`."""
        own = self.processor.video_processor
        return str(own.size), int(own.resample)

    def resize(self, plan: VideoPlan | ImagePlan, picture: Image.Image) -> torch.Tensor:
        """See `Prompter`."""
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
