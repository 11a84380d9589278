"""Hook on `webui.components.chatbot`: `webchat` of one of our models is greedy unless its user moves the temperature."""

from functools import wraps
from types import ModuleType

from .greedy import chats_with_ours, greedy_by_default
from .shown import forget_closed_pages


def install(module: ModuleType) -> None:
    """Wrap the function that makes the chat box."""
    create_chat_box = module.create_chat_box

    @wraps(create_chat_box)
    def _create_chat_box(engine, visible=False):
        chatbot, messages, elements = create_chat_box(engine, visible)
        if chats_with_ours(engine):  # known by now in `webchat` alone; LlamaBoard's model is loaded later
            page = module.gr.context.Context.root_block
            greedy_by_default(module.gr, engine, elements["temperature"], [page.load])
            forget_closed_pages(page)

        return chatbot, messages, elements

    module.create_chat_box = _create_chat_box
