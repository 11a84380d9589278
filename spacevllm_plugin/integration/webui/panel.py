"""Hook on `webui.components.train`: a panel with our options, which is there while a template of ours is chosen."""

from functools import wraps
from math import ceil
from types import ModuleType
from typing import Any

import gradio as gr

from ...backbones import registry
from .blocks import move_before
from .fields import GROUPS
from .presets import follow
from .words import PANEL


# The options' elements are known to LLaMA-Factory's manager as `spacevllm.NAME`.
TAB = "spacevllm"
MEMORY = "spacevllm_memory"  # see `presets.follow`
# LLaMA-Factory's fields that follow the choice of our models.
FIELDS = ("cutoff_len", "compute_type", "enable_thinking")
COLUMNS = 5  # at most, as on the rest of the page


def elem_id(name: str) -> str:
    """What the manager knows an option's element by."""
    return f"{TAB}.{name}"


def create_panel() -> dict[str, Any]:
    """Build the panel where the page is being built; its elements by name."""
    with gr.Accordion(open=False, visible=False) as panel:
        elems: dict[str, Any] = {MEMORY: gr.Textbox(visible=False)}
        for group in GROUPS:
            rows = ceil(len(group) / COLUMNS)
            width = ceil(len(group) / rows)
            for start in range(0, len(group), width):
                with gr.Row():
                    elems |= {option.name: option.component() for option in group[start : start + width]}

    return {PANEL: panel, **elems}


def install(module: ModuleType) -> None:
    """Wrap what builds the tab."""
    create_train_tab = module.create_train_tab

    @wraps(create_train_tab)
    def _create_train_tab(engine):
        manager = engine.manager
        # Built first, because the tab hands its base elements to its buttons while it is built.
        panel = create_panel()
        manager.add_elems(TAB, panel)
        ours = {elem for name, elem in panel.items() if name != PANEL}
        get_base_elems = manager.get_base_elems
        manager.get_base_elems = lambda: get_base_elems() | ours
        try:
            elems = create_train_tab(engine)
        finally:
            del manager.get_base_elems

        move_before(panel[PANEL], elems["extra_tab"])
        template = manager.get_elem_by_id("top.template")
        template.change(
            lambda name: gr.Accordion(visible=registry.of_template(name) is not None),
            [template],
            [panel[PANEL]],
            queue=False,
            show_progress="hidden",
        )
        sources = [template, panel["video_maxlen"], elems["video_max_pixels"]]
        follow(sources, panel[MEMORY], {name: elems[name] for name in FIELDS})
        return elems

    module.create_train_tab = _create_train_tab
