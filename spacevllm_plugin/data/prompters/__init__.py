"""One prompter per backbone, by the backbone's name."""

from .base import Prompter
from .llava_onevision import LlavaOnevisionPrompter
from .qwen2_5_vl import Qwen2_5VLPrompter
from .qwen3_vl import Qwen3VLPrompter


PROMPTERS: dict[str, type[Prompter]] = {
    "llava_onevision": LlavaOnevisionPrompter,
    "qwen2_5_vl": Qwen2_5VLPrompter,
    "qwen3_vl": Qwen3VLPrompter,
}
