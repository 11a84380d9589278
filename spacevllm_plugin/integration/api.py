"""Hook on `api.app`: answers with tubes; a request that cannot be used is answered 400 and one line, streamed or not."""

import binascii
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import wraps
from types import ModuleType
from typing import Any

from PIL.Image import DecompressionBombError
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from ..data.prompt_rules import PromptError
from ..data.video import MediaError
from . import api_tubes
from .request_files import most_bytes
from .template import is_ours


# What reading a request raises, in the engine and in LLaMA-Factory, and the answer; our own errors are theirs.
NO_IMAGE = "an image of the request is not a readable image"
NOT_FETCHED = "an image or video of the request could not be fetched from its URL"
UNREADABLE = {
    MediaError: "",
    PromptError: "",
    RequestException: NOT_FETCHED,
    HTTPError: NOT_FETCHED,
    binascii.Error: "an image or video of the request is not base64",
    DecompressionBombError: "an image of the request has too many pixels",
    # As Pillow says it: the first of images that are cut off or none at all, the second of broken parts.
    OSError: NO_IMAGE,
    SyntaxError: NO_IMAGE,
}
# LLaMA-Factory's first event only says who speaks; the media are read for the second.
HELD_EVENTS = 2


async def _bad_request(request: Any, err: Exception) -> Any:
    from fastapi.responses import JSONResponse

    if getattr(err, "errno", None) is not None:
        raise err  # the server's own trouble, for instance a full disk

    answer = next(answer for kind, answer in UNREADABLE.items() if isinstance(err, kind))
    return JSONResponse({"detail": answer or str(err)}, status_code=400)


async def begun(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The same events, of which the first have been made already: what they raise is raised here, not while sending."""
    held = []
    async for event in events:
        held.append(event)
        if len(held) == HELD_EVENTS:
            break

    async def go_on() -> AsyncIterator[Any]:
        async with aclosing(events):
            for event in held:
                yield event

            async for event in events:
                yield event

    return go_on()


def install(module: ModuleType) -> None:
    """Give the apps of our models tubes, handlers for these errors, and streams that meet these before they have begun."""
    api_tubes.install(module)
    create_app, response_class = module.create_app, module.EventSourceResponse

    class EventSourceResponse(response_class):
        async def __call__(self, scope, receive, send) -> None:
            # Once the status is sent, it is too late for another one.
            if MediaError in scope["app"].exception_handlers:
                self.body_iterator = await begun(self.body_iterator)

            await super().__call__(scope, receive, send)

    @wraps(create_app)
    def _create_app(chat_model):
        if not is_ours(chat_model.engine.template):
            return create_app(chat_model)

        # What is wrong with these is better known now than at the first request.
        most_bytes()
        api_tubes.default_form()
        with api_tubes.declared(module):
            app = create_app(chat_model)

        api_tubes.document_stream(app)
        for error in UNREADABLE:
            app.add_exception_handler(error, _bad_request)

        return app

    module.create_app, module.EventSourceResponse = _create_app, EventSourceResponse
