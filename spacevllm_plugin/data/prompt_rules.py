"""What the texts of a prompt must keep to, whoever wrote them: a data set, the user of a command, a client of the API.

The tokenizer reads a special token typed in a text as the token itself: a query without a frame, visual tokens without a
picture, a turn that nobody took. Such texts are refused, never mended in silence, and by all backbones alike, so that a
data set is good for each of them.
"""

from functools import cache

from ..backbones import registry
from .schema import MEDIA_TAG, VISUAL_TAGS, RowError


# Only templates and prompters write these, and those of the backbones; the first is `modeling.configuration.STAQ_TOKEN`.
CHAT_TOKENS = ("<|staq|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
# Who may show a medium; tools may, in other formats than ours.
SHOWING_ROLES = ("user", "observation")


class PromptError(RowError):
    """Texts that no prompt can be made of; the message is one line."""


@cache
def special_tokens() -> tuple[str, ...]:
    """What no text may hold, whatever the backbone."""
    of_backbones = [token for spec in registry.specs() for token in spec.special_tokens]
    return tuple(dict.fromkeys([*CHAT_TOKENS, *of_backbones]))


def check_text(text: str, role: str) -> None:
    """Raise `PromptError` where a text of this role holds a special token."""
    found = next((token for token in special_tokens() if token in text), None)
    if found is not None:
        raise PromptError(f"`{found}` in the {role}'s text: it is for the template alone to write", "special-token")


def check_messages(messages: list[dict[str, str]], images: int, videos: int) -> None:
    """Check a conversation before its tags are replaced.

    Args:
        messages: Turns with `role` and `content`.
        images: Images that are given with it.
        videos: Videos that are given with it.

    Raises:
        PromptError: A special token, a tag where no medium can be, or not one tag for each medium.
    """
    for message in messages:
        check_text(message["content"], message["role"])
        tag = MEDIA_TAG.search(message["content"])
        if tag and message["role"] not in SHOWING_ROLES:
            raise PromptError(f"`{tag.group()}` in the {message['role']}'s text: it stands for a file", "tags")

    given = {"videos": videos, "images": images}
    for name, tag in VISUAL_TAGS.items():
        found = sum(message["content"].count(tag) for message in messages)
        if found != given[name]:
            reason = "it stands for a file, and cannot be part of a sentence"
            raise PromptError(f"{found} `{tag}` in the text, but {given[name]} {name}: {reason}", "tags")
