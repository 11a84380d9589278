"""Hook on `webui.components.chatbot`: `webchat` of one of our models is greedy unless its user moves the temperature."""

from functools import wraps
from types import ModuleType
from typing import Any

from .greedy import chats_with_ours, greedy_by_default, thoughtless_by_default
from .shown import make_room


def label(gr: ModuleType, page: Any, lang: Any, elements: dict[str, Any]) -> None:
    """Label the page when it is opened: LLaMA-Factory does so when the language changes, which it need not have."""
    from llamafactory.webui.locales import LOCALES

    labelled = {name: element for name, element in elements.items() if name in LOCALES}

    def labels(lang: str) -> dict[Any, Any]:
        return {element: type(element)(**LOCALES[name][lang]) for name, element in labelled.items()}

    gr.on([page.load], labels, [lang], list(labelled.values()), queue=False, show_api=False)


def install(module: ModuleType) -> None:
    """Wrap the function that makes the chat box."""
    create_chat_box = module.create_chat_box

    @wraps(create_chat_box)
    def _create_chat_box(engine, visible=False):
        chatbot, messages, elements = create_chat_box(engine, visible)
        if chats_with_ours(engine):  # known by now in `webchat` alone; LlamaBoard's model is loaded later
            page = module.gr.context.Context.root_block
            greedy_by_default(module.gr, engine, elements["temperature"], [page.load])
            thoughtless_by_default(module.gr, engine, elements["enable_thinking"], [page.load])
            make_room(page)
            label(module.gr, page, engine.manager.get_elem_by_id("top.lang"), elements)

        return chatbot, messages, elements

    module.create_chat_box = _create_chat_box
