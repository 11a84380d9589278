"""LLaMA-Factory's API before an inference engine: its app and our hooks on it, with another model behind."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ..backbones import registry
from ..data.prompt_rules import PromptError
from ..data.reply import without_block
from ..serving.client import EngineAnswer, EngineClient, EngineError, Sampling
from ..serving.prompt import EnginePrompt
from ..serving.sidecar import Sidecar
from .chat import TubeReply
from .request_files import as_files


class EngineChat:
    """What the API takes for a `ChatModel`, and for its engine.

    Args:
        sidecar: Makes the prompts and the boxes.
        client: Makes the texts and the states.
        max_new_tokens: Longest answer where a request does not say.
    """

    can_generate = True

    def __init__(self, sidecar: Sidecar, client: EngineClient, max_new_tokens: int) -> None:
        self.sidecar, self.client, self.max_new_tokens = sidecar, client, max_new_tokens
        self.engine, self.name, self.template = self, client.package, sidecar.engine.template

    async def achat(self, *args: Any, **options: Any) -> list[Any]:
        """As `ChatModel.achat`.

        Raises:
            EngineError: The engine gives no answer that can be used.
            MediaError: A medium cannot be read.
            PromptError: No prompt can be made of the texts, or the request asks for what is not there.
        """
        from llamafactory.chat.base_engine import Response

        return [
            Response("".join(pieces), answer.tokens, length, answer.finish_reason)
            for pieces, answer, length in await self._answers(*args, **options)
        ]

    async def astream_chat(self, *args: Any, **options: Any) -> AsyncGenerator[str, None]:
        """As `ChatModel.astream_chat`, in two pieces: the text, once all of it is there, and the block."""
        ((pieces, _, _),) = await self._answers(*args, **options)
        for piece in pieces:
            yield piece

    async def _answers(
        self,
        messages: list[dict[str, str]],
        system: str | None = None,
        tools: str | None = None,
        images: list[Any] | None = None,
        videos: list[Any] | None = None,
        audios: list[Any] | None = None,
        **options: Any,
    ) -> list[tuple[list[str], EngineAnswer, int]]:
        """For each answer wanted: its text and the block, what the engine says of it, and the prompt's length in tokens."""
        if tools or audios:
            raise PromptError(f"{'tools' if tools else 'sounds'} are not for a model behind an engine", "request")

        # The media are decoded and go through the vision tower: the server answers others meanwhile.
        prompt, reply = await asyncio.to_thread(self._prompt, messages, system, images or [], videos or [])
        count = options.get("num_return_sequences") or 1
        sampling = self._sampling(options, count)
        answers = await asyncio.gather(*(self.client.answer(prompt, sampling) for _ in range(count)))
        if answers[0].states is not None:
            decoded = await asyncio.to_thread(self.sidecar.decode, prompt, answers[0].states)
            reply.sink.append(decoded.boxes.cpu())

        return [(list(reply.complete([answer.text])), answer, len(prompt.token_ids)) for answer in answers]

    def _prompt(
        self, messages: list[dict[str, str]], system: str | None, images: list[Any], videos: list[Any]
    ) -> tuple[EnginePrompt, TubeReply]:
        engine = self.sidecar.engine
        messages = [{**message, "content": without_block(message["content"])} for message in messages]
        with as_files(videos) as videos:
            words = registry.get(self.sidecar.export.backbone).thought_words
            reply = TubeReply(engine.prompter, messages, images, videos, words)
            item = engine.item("request", "stvg", messages, images, videos, system=system)
            return self.sidecar.prompt(item), reply

    def _sampling(self, options: dict[str, Any], count: int) -> Sampling:
        temperature = options.get("temperature") or 0.0
        if options.get("do_sample") is False:
            temperature = 0.0
        elif count > 1:
            temperature = temperature or 1.0

        stop = options.get("stop") or []
        return Sampling(
            max_new_tokens=options.get("max_new_tokens") or self.max_new_tokens,
            temperature=temperature,
            top_p=options.get("top_p") or 1.0,
            repetition_penalty=options.get("repetition_penalty") or 1.0,
            stop=[stop] if isinstance(stop, str) else stop,
        )


def create_app(chat: EngineChat) -> Any:
    """LLaMA-Factory's app; what the engine fails at is answered 502 and one line, streamed or not."""
    from fastapi.responses import JSONResponse
    from llamafactory.api.app import create_app as create

    async def bad_gateway(request: Any, err: Exception) -> Any:
        return JSONResponse({"detail": str(err)}, status_code=502)

    app = create(chat)
    app.add_exception_handler(EngineError, bad_gateway)
    return app
