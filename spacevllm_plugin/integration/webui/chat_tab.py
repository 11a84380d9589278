"""Hook on `webui.components.infer`: LlamaBoard's Chat tab is greedy while one of our models is loaded."""

from functools import wraps
from types import ModuleType

from .greedy import greedy_by_default, thoughtless_by_default
from .shown import make_room


def install(module: ModuleType) -> None:
    """Wrap the function that makes the tab."""
    create_infer_tab = module.create_infer_tab

    @wraps(create_infer_tab)
    def _create_infer_tab(engine):
        elements = create_infer_tab(engine)
        page = module.gr.context.Context.root_block
        # The box says when a model is loaded or unloaded; a page may also be opened long after.
        events = [page.load, elements["info_box"].change]
        greedy_by_default(module.gr, engine, elements["temperature"], events)
        thoughtless_by_default(module.gr, engine, elements["enable_thinking"], events)
        make_room(page)
        return elements

    module.create_infer_tab = _create_infer_tab
