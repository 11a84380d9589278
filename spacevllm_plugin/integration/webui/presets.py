"""Values that fit our models, in fields of LLaMA-Factory's, while a template of ours is chosen."""

import json
from typing import Any

import gradio as gr
from llamafactory.extras.misc import is_accelerator_available
from llamafactory.webui.common import calculate_pixels

from ...backbones import registry


def presets(template: str, video_maxlen: Any, video_max_pixels: str) -> dict[str, Any]:
    """What fits, by the field's name; nothing for templates of others, where LLaMA-Factory's values are to stand.

    Args:
        template: The one chosen.
        video_maxlen: Most frames of a video, as its field says.
        video_max_pixels: Most pixels of a frame, as its field says.
    """
    spec = registry.of_template(template)
    if spec is None:
        return {}

    found: dict[str, Any] = {}
    try:
        needed = spec.prompt_tokens(int(video_maxlen), calculate_pixels(video_max_pixels))
    except (TypeError, ValueError):  # half a number, as somebody is typing
        needed = None

    if needed is not None:
        found["cutoff_len"] = 1 << (needed - 1).bit_length()

    if not is_accelerator_available():
        found["compute_type"] = "fp32"

    if spec.thought_words is not None:
        found["enable_thinking"] = False

    return found


def follow(sources: list[Any], memory: Any, fields: dict[str, Any]) -> None:
    """Let fields of a tab follow what is chosen in others.

    A field that says what LLaMA-Factory or this put there follows, and goes back with the template; one that the user has
    changed is the user's.

    Args:
        sources: The fields that `presets` asks for.
        memory: A hidden text field for what fitted last, as `remembered` writes it.
        fields: The fields that follow, by name.
    """
    stock = {name: field.value for name, field in fields.items()}

    def update(memory: str | None, template: str, video_maxlen: Any, video_max_pixels: str, *values: Any) -> list[Any]:
        before, now = json.loads(memory or "{}"), presets(template, video_maxlen, video_max_pixels)
        ours = [value == before.get(name, stock[name]) for name, value in zip(fields, values)]
        updates = [
            gr.update(value=now.get(name, stock[name])) if own else gr.update() for name, own in zip(fields, ours)
        ]
        return [remembered(now), *updates]

    template, video_maxlen, video_max_pixels = sources
    for event in (template.change, video_maxlen.change, video_max_pixels.blur):
        event(
            update,
            [memory, *sources, *fields.values()],
            [memory, *fields.values()],
            queue=False,
            show_progress="hidden",
        )


def remembered(found: dict[str, Any]) -> str:
    """What fits, as the hidden field holds it."""
    return json.dumps(found)
