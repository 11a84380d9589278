"""What the Qwen-VL prompters share."""

import math

import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from ...data.plan import VideoPlan
from ...data.video.source import media_errors
from ...modeling.configuration import STAQ_TOKEN
from ..prompter import FRAMES_AT_ONCE, Grid, ImagePlan, Prompter, joined, pixels


class QwenPrompter(Prompter):
    """Frames resized once, straight to the size the patches need, then cut by the backbone's own processor."""

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
        with media_errors(plan.name, "of a shape that the processor refuses"):
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

    def resize(self, plan: VideoPlan | ImagePlan, picture: Image.Image) -> torch.Tensor:
        """See `Prompter`."""
        size = self.size(plan)
        return pixels(picture if picture.size == size else picture.resize(size, Image.BICUBIC))

    def tensors(
        self, plans: list[VideoPlan | ImagePlan], pictures: list[torch.Tensor], grids: list[Grid]
    ) -> dict[str, torch.Tensor]:
        """See `Prompter`."""
        own = self.processor.video_processor
        images, videos, shapes = [], [], []
        for plan, frames, grid in zip(plans, pictures, grids):
            if isinstance(plan, VideoPlan):
                videos.append(frames)
                shapes.append((len(plan.groups), grid.rows * own.merge_size, grid.columns * own.merge_size))
            else:
                images += frames

        inputs = {}
        if images:
            inputs.update(self.processor.image_processor(images, do_resize=False, return_tensors="pt"))

        if videos:
            # Patches lie one temporal patch after the other, so that those of some frames follow those of the frames before.
            patches = (
                own(videos=[some], do_resize=False, do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
                for frames in videos
                for some in frames.split(FRAMES_AT_ONCE)
            )
            inputs["pixel_values_videos"] = joined(patches, sum(map(math.prod, shapes)))
            inputs["video_grid_thw"] = torch.tensor(shapes)

        return dict(inputs)

    def repeated(
        self, inputs: dict[str, torch.Tensor], plans: list[VideoPlan | ImagePlan], appearances: list[int]
    ) -> dict[str, torch.Tensor]:
        """See `Prompter`. The tower takes images first; grids are there for each appearance, as positions need them."""
        found, given = {"media": []}, 0
        for name, kind in (("image_grid_thw", ImagePlan), ("video_grid_thw", VideoPlan)):
            own = [number for number, plan in enumerate(plans) if isinstance(plan, kind)]
            rank = {number: place for place, number in enumerate(own)}
            places = [rank[number] for number in appearances if number in rank]
            if own:
                found[name] = inputs[name][places]

            found["media"] += [given + place for place in places]
            given += len(own)

        return {**found, "media": torch.tensor(found["media"])}
