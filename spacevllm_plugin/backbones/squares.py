"""What the backbones share that see every picture as one square of a fixed size, frames and images alike."""

import torch
from PIL import Image

from ..data.plan import VideoPlan
from ..data.prompts import time_sentence
from .prompter import FRAMES_AT_ONCE, Grid, ImagePlan, Prompter, joined, pixels


class SquarePrompter(Prompter):
    """Pictures resized by the backbone's own video processor, one tile each; the times in a sentence behind a video."""

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
