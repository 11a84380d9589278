"""The API's tubes as documented fields beside `content`, in whole answers and in streams."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from functools import cache, wraps
from types import ModuleType
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from ..data.reply import Tube, split_block
from .template import is_ours


VARIABLE = "SPACEVLLM_API_TUBES"
Form = Literal["both", "field", "block"]
FORM = "Where the tubes go: `field`, the answer's own `tubes`; `block`, a JSON block behind the text; or `both`."
TUBES = "One per video or image of the conversation, in order of appearance; null where there is none."
ROUTE = "/v1/chat/completions"
LAST_EVENT = "[DONE]"


def default_form() -> Form:
    """Where tubes go unless the request says.

    Raises:
        ValueError: `SPACEVLLM_API_TUBES` is none of the forms.
    """
    given = os.environ.get(VARIABLE) or "both"
    if given not in get_args(Form):
        raise ValueError(f"{VARIABLE}={given}: not one of {', '.join(get_args(Form))}")

    return given


@cache
def protocol() -> dict[str, type[BaseModel]]:
    """LLaMA-Factory's messages with the tubes, by its own names."""
    from llamafactory.api import protocol as stock

    class ChatCompletionRequest(stock.ChatCompletionRequest):
        tubes: Form | None = Field(None, description=f"{FORM} As the server says where null.")

    class ChatCompletionMessage(stock.ChatCompletionMessage):
        tubes: list[Tube] | None = Field(None, description=TUBES)

    class ChatCompletionResponseChoice(stock.ChatCompletionResponseChoice):
        message: ChatCompletionMessage

    class ChatCompletionResponse(stock.ChatCompletionResponse):
        choices: list[ChatCompletionResponseChoice]

    class ChatCompletionStreamResponseChoice(stock.ChatCompletionStreamResponseChoice):
        delta: ChatCompletionMessage = Field(description="The last one, which has a `finish_reason`, has the tubes.")

    class ChatCompletionStreamResponse(stock.ChatCompletionStreamResponse):
        choices: list[ChatCompletionStreamResponseChoice]

    models = (ChatCompletionRequest, ChatCompletionResponse, ChatCompletionStreamResponse)
    return {model.__name__: model for model in models}


@contextmanager
def declared(module: ModuleType) -> Iterator[None]:
    """While an app of one of our models is made, the models that its routes declare are those of `protocol`."""
    stock = {name: vars(module)[name] for name in protocol() if name in vars(module)}
    vars(module).update({name: protocol()[name] for name in stock})
    try:
        yield
    finally:
        vars(module).update(stock)


def document_stream(app: Any) -> None:
    """Put the events of a stream into the app's OpenAPI page; LLaMA-Factory leaves them out."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        schema, event = make(), protocol()["ChatCompletionStreamResponse"]
        template = "#/components/schemas/{model}"
        _, found = models_json_schema([(event, "serialization")], ref_template=template)
        schema["components"]["schemas"] = {**found["$defs"], **schema["components"]["schemas"]}
        answers = schema["paths"][ROUTE]["post"]["responses"]["200"]["content"]
        answers["text/event-stream"] = {"schema": {"$ref": template.format(model=event.__name__)}}
        return schema

    app.openapi = openapi


def install(module: ModuleType) -> None:
    """Wrap the two functions of `api.app` that answer a chat request."""
    create, create_stream = module.create_chat_completion_response, module.create_stream_chat_completion_response

    @wraps(create)
    async def _create(request, chat_model):
        answer = await create(request, chat_model)
        if not is_ours(chat_model.engine.template):
            return answer

        answer, form = answer.model_dump(), request.tubes or default_form()
        for choice in answer["choices"]:
            message = choice["message"]
            text, tubes = split_block(message["content"] or "")
            if tubes is not None and form != "block":
                message["tubes"] = tubes

            if tubes is not None and form == "field":
                message["content"] = text

        return protocol()["ChatCompletionResponse"](**answer)

    @wraps(create_stream)
    async def _create_stream(request, chat_model):
        ours = is_ours(chat_model.engine.template)
        async with aclosing(create_stream(request, chat_model)) as events:
            async for event in with_tubes(events, request.tubes or default_form()) if ours else events:
                yield event

    module.create_chat_completion_response = _create
    module.create_stream_chat_completion_response = _create_stream


async def with_tubes(events: AsyncIterator[str], form: Form) -> AsyncIterator[str]:
    """The events of a stream, of which one is the block, with its tubes in the last delta."""
    tubes = None
    async for event in events:
        if form == "block" or event == LAST_EVENT:
            yield event
            continue

        chunk = json.loads(event)
        (choice,) = chunk["choices"]
        _, found = split_block(choice["delta"].get("content") or "")
        if found is not None:
            tubes = found
            if form == "field":
                continue

        if choice.get("finish_reason") is not None and tubes is not None:
            choice["delta"]["tubes"] = [tube.model_dump() for tube in tubes]
            event = json.dumps(chunk, ensure_ascii=False)

        yield event
