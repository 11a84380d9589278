"""Hook on `webui.components.eval`: prompts of our models fit into `cutoff_len` there, too."""

from functools import wraps
from types import ModuleType

import gradio as gr

from .panel import elem_id
from .presets import follow


def install(module: ModuleType) -> None:
    """Wrap what builds the tab."""
    create_eval_tab = module.create_eval_tab

    @wraps(create_eval_tab)
    def _create_eval_tab(engine):
        elems = create_eval_tab(engine)
        names = ("top.template", elem_id("video_maxlen"), "train.video_max_pixels")
        sources = [engine.manager.get_elem_by_id(name) for name in names]
        follow(sources, gr.Textbox(visible=False), {"cutoff_len": elems["cutoff_len"]})
        return elems

    module.create_eval_tab = _create_eval_tab
