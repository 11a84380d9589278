"""What the Qwen-VL prompters share."""

from collections.abc import Sequence

import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from ...modeling.configuration import STAQ_TOKEN
from ..plan import VideoPlan
from .base import Grid, ImagePlan, Prompter, stack_frames


class QwenPrompter(Prompter):
    """Frames resized once, straight to the size the patches need, then cut by the backbone's own processor."""

    image_token = "<|image_pad|>"
    video_token = "<|video_pad|>"
    vision_start = "<|vision_start|>"
    vision_end = "<|vision_end|>"

    @property
    def temporal_patch_size(self) -> int:
        """Frames that the backbone merges into one."""
        return self.processor.video_processor.temporal_patch_size

    def size(self, plan: VideoPlan | ImagePlan) -> tuple[int, int]:
        """(width, height) in pixels after resizing: multiples of a merged patch, within the pixel limits."""
        options, processor = self.options, self.processor.image_processor
        least, most = options.image_min_pixels, options.image_max_pixels
        if isinstance(plan, VideoPlan):
            least, most, processor = options.video_min_pixels, options.video_max_pixels, self.processor.video_processor

        factor = processor.patch_size * processor.merge_size
        height, width = smart_resize(
            plan.height, plan.width, factor=factor, min_pixels=max(least, factor * factor), max_pixels=most
        )
        return width, height

    def grid(self, plan: VideoPlan | ImagePlan) -> Grid:
        """See `Prompter`."""
        is_video = isinstance(plan, VideoPlan)
        processor = self.processor.video_processor if is_video else self.processor.image_processor
        factor = processor.patch_size * processor.merge_size
        width, height = self.size(plan)
        return Grid(rows=height // factor, columns=width // factor, stride=width // factor)

    def image_text(self, grid: Grid) -> str:
        """See `Prompter`."""
        return f"{self.vision_start}{self.image_token * (grid.rows * grid.columns)}{self.vision_end}{STAQ_TOKEN}"

    def resizing(self, plan: VideoPlan | ImagePlan) -> tuple:
        """See `Prompter`."""
        return self.size(plan)

    def resize(self, plan: VideoPlan | ImagePlan, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """See `Prompter`."""
        size = self.size(plan)
        return stack_frames([one if one.size == size else one.resize(size, Image.BICUBIC) for one in pictures])

    def tensors(
        self, plans: list[VideoPlan | ImagePlan], pictures: list[torch.Tensor], grids: list[Grid]
    ) -> dict[str, torch.Tensor]:
        """See `Prompter`."""
        images, videos = [], []
        for plan, frames in zip(plans, pictures):
            if isinstance(plan, VideoPlan):
                videos.append(frames)
            else:
                images += frames

        inputs = {}
        if images:
            inputs.update(self.processor.image_processor(images, do_resize=False, return_tensors="pt"))

        if videos:
            video_inputs = self.processor.video_processor(
                videos=videos, do_resize=False, do_sample_frames=False, return_tensors="pt"
            )
            inputs.update({name: video_inputs[name] for name in ("pixel_values_videos", "video_grid_thw")})

        return dict(inputs)
