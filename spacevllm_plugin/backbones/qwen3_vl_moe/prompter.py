"""Qwen3-VL-MoE: a timestamp before every frame, as in Qwen3-VL."""

from ..qwen3_vl.prompter import Qwen3VLPrompter
from .spec import SPEC


class Qwen3VLMoePrompter(Qwen3VLPrompter):
    """`<1.5 seconds><|vision_start|>…<|vision_end|><|staq|>` for every temporal patch."""

    image_token, video_token = SPEC.image_token, SPEC.video_token
