"""Where the pictures of replies lie while somebody looks at them."""

from functools import cache
from pathlib import Path
from typing import Any

from ...data.scratch import Scratch


# A chat box is 400 pixels high.
CSS = """
.message.bot video, .message.bot img { max-height: 300px; max-width: 100%; width: auto; }
"""


@cache
def scratch() -> Scratch:
    """This process's folder: in gradio's own, from which it serves files as they are."""
    from gradio.utils import get_upload_folder

    return Scratch(Path(get_upload_folder()))


def reply_folder() -> Path:
    """A folder for the reply that is being given, for as long as its page is open."""
    from gradio.context import LocalContext

    return scratch().folder(LocalContext.request.get().session_hash)


def make_room(page: Any) -> None:
    """Keep the pictures on a page within its chat box, and remove them when it is closed or loaded anew.

    Args:
        page: The `gr.Blocks`.
    """
    from gradio import Request

    def forget(request: Request) -> None:
        scratch().forget(request.session_hash)

    page.css = (page.css or "") + CSS
    page.unload(forget)
