"""What the Chat page's fields begin with for our models: greedy, and without a thought, unless the user says otherwise."""

from types import ModuleType
from typing import Any

from ...backbones import registry
from ..template import is_ours
from .shown import scratch
from .texts import text


def chats_with_ours(engine: Any) -> bool:
    """Whether the page's model (of LLaMA-Factory's web `Engine`) is loaded and one of ours."""
    return engine.chatter.loaded and is_ours(engine.chatter.engine.template)


def greedy_by_default(gr: ModuleType, engine: Any, slider: Any, events: list[Any]) -> None:
    """Let the temperature be 0, and say why, while one of our models is loaded.

    Args:
        gr: The module gradio.
        engine: The page's.
        slider: The temperature.
        events: After which another model may be loaded than before.
    """
    lang = engine.manager.get_elem_by_id("top.lang")
    stock, default = {"minimum": slider.minimum, "info": slider.info}, slider.value

    def follow_model(lang: str, value: float) -> Any:
        if chats_with_ours(engine):
            scratch()  # removes what a killed server has left
            return gr.Slider(minimum=0, value=0, info=text("greedy", lang))

        # 0 is ours; what the user of another model has chosen stays.
        return gr.Slider(**stock, value=value or default)

    def follow_language(lang: str) -> Any:
        return gr.Slider(info=text("greedy", lang) if chats_with_ours(engine) else stock["info"])

    gr.on(events, follow_model, [lang, slider], [slider], queue=False, show_api=False)
    lang.change(follow_language, [lang], [slider], queue=False, show_api=False)


def thoughtless_by_default(gr: ModuleType, engine: Any, box: Any, events: list[Any]) -> None:
    """Let the box for thinking be unticked while one of our models is loaded that is trained with empty thoughts.

    Args:
        gr: The module gradio.
        engine: The page's.
        box: The checkbox, which counts as said even where nobody touched it.
        events: After which another model may be loaded than before.
    """
    was_ticked = gr.State(False)

    def follow_model(ticked: bool, was_ticked: bool) -> tuple[bool, bool]:
        if chats_with_ours(engine):
            backbone = engine.chatter.engine.template.mm_plugin.backbone
            if registry.get(backbone).thought_words is not None:
                return False, ticked or was_ticked

        return ticked or was_ticked, False

    gr.on(events, follow_model, [box, was_ticked], [box, was_ticked], queue=False, show_api=False)
