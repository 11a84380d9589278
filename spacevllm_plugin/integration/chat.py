"""Hook on `chat.hf_engine`: replies of chat, API and web chat carry the tube as one JSON block behind the text.

Requests that come at the same time are put together, see `batching`.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial, wraps
from types import ModuleType
from typing import Any

from ..backbones import registry
from ..data.media import in_order
from ..data.plan import VideoPlan
from ..data.reply import ImageTube, Tube, VideoTube, without_block, write_block
from ..data.span_parser import read_span
from ..data.targets import pixel_box
from ..data.thoughts import spoken
from .batching import Batches, Request, may_share
from .options import RunOptions
from .prefix_cache import cache_of, media_inputs, media_later, prompt_item, reads_later
from .request_files import as_files
from .template import is_ours
from .together import Prompt, answer_together


_call = threading.local()  # what `_process_args` hands to whoever called it, in the same thread


class TubeReply:
    """Collects one reply's boxes and writes the block.

    Args:
        prompter: The backbone's prompter.
        messages: The conversation, with its media tags.
        images: Its images.
        videos: Its videos.
        thought_words: See `BackboneSpec`.
    """

    def __init__(
        self,
        prompter: Any,
        messages: list[dict[str, str]],
        images: list[Any],
        videos: list[Any],
        thought_words: tuple[str, str] | None = None,
    ) -> None:
        self.thought_words = thought_words
        self.sink: list[Any] = []
        self.plans = in_order(messages, *prompter.plan(images, videos))

    def complete(self, pieces: Iterable[str]) -> Iterator[str]:
        """What is shown of a reply that comes in pieces: its text without a thought, then the block."""
        text = ""
        for piece in spoken(pieces, self.thought_words):
            text += piece
            yield piece

        yield self.block(text)

    def block(self, text: str) -> str:
        """The JSON block for a reply, see `data.reply`; empty where the prompt held no image or video."""
        return write_block(self.tubes(text)) if self.sink else ""

    def tubes(self, text: str) -> list[Tube]:
        """One tube per medium, in order of appearance, with the span that the text names."""
        boxes = iter(self.sink[0].tolist())
        tubes: list[Tube] = []
        for plan in self.plans:
            if isinstance(plan, VideoPlan):
                span = read_span(text, plan)
                tubes.append(
                    VideoTube(
                        span_seconds=span,
                        span_frames=plan.timeline.span_frames(span, plan.clip) if span else None,
                        frames=plan.frames,
                        boxes=[_rounded(next(boxes), plan) for _ in plan.frames],
                    )
                )
            else:
                tubes.append(ImageTube(box=_rounded(next(boxes), plan)))

        return tubes


def _rounded(box: list[float], plan: Any) -> list[float]:
    return [round(value, 1) for value in pixel_box(box, plan.width, plan.height)]


def _inputs(engine: Any, request: Request) -> tuple:
    """The arguments of an engine's static methods."""
    stock = engine.model, engine.tokenizer, engine.processor, engine.template, engine.generating_args
    return *stock, *request.arguments, dict(request.generating)


def _alone(engine: Any, request: Request) -> list[Any]:
    """One request's responses, as LLaMA-Factory makes them."""
    return engine._chat(*_inputs(engine, request))


def _together(engine: Any, response: type, requests: list[Request]) -> list[list[Any]]:
    """Each request's responses."""
    prompts = []
    with media_later(True):
        for request in requests:
            gen_kwargs, _ = engine._process_args(*_inputs(engine, request))
            prompts.append(Prompt(_call.item, _call.reply, gen_kwargs["generation_config"]))

    prompter = engine.template.mm_plugin.prompter(engine.processor)
    cache = cache_of(engine.model, RunOptions.on(engine.processor).training.prefix_cache_gb)
    answers = answer_together(engine.model, prompter, prompts, cache)
    return [
        [
            response(
                response_text=answer.text,
                response_length=answer.length,
                prompt_length=len(prompt.item.token_ids),
                finish_reason="stop" if answer.ended else "length",
            )
        ]
        for prompt, answer in zip(prompts, answers)
    ]


def install(module: ModuleType) -> None:
    """Wrap the engine's two ways of answering, what prepares their inputs, and what takes requests for whole answers."""
    engine = module.HuggingfaceEngine
    process_args, chat, stream_chat = engine._process_args, engine._chat, engine._stream_chat
    init, ask = engine.__init__, engine.chat

    @wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.batches = None
        if is_ours(self.template):
            options = RunOptions.on(self.processor).training
            if options.max_batch > 1:
                answering = partial(_alone, self), partial(_together, self, module.Response)
                self.batches = Batches(self, *answering, options.max_batch, options.max_wait_ms / 1000)

    @wraps(ask)
    async def _ask(self, messages, system=None, tools=None, images=None, videos=None, audios=None, **input_kwargs):
        if self.batches is None or not may_share(input_kwargs, self.generating_args):
            return await ask(self, messages, system, tools, images, videos, audios, **input_kwargs)

        with ExitStack() as files:
            videos = await asyncio.to_thread(files.enter_context, as_files(videos))
            return await self.batches.ask(Request((messages, system, tools, images, videos, audios), input_kwargs))

    @wraps(process_args)
    def _process_args(model, tokenizer, processor, template, generating_args, messages, *args, **kwargs):
        stock = (model, tokenizer, processor, template, generating_args)
        _call.reply = None
        if not is_ours(template):
            return process_args(*stock, messages, *args, **kwargs)

        # The model never wrote the blocks that earlier replies of this conversation came with.
        messages = [{**message, "content": without_block(message["content"])} for message in messages]
        system, tools, images, videos, *rest = (*args, *[None] * (4 - len(args)))
        with as_files(videos) as videos:
            cache, batched = cache_of(model, RunOptions.on(processor).training.prefix_cache_gb), reads_later()
            with media_later(batched or cache is not None):
                gen_kwargs, prompt_length = process_args(
                    *stock, messages, system, tools, images, videos, *rest, **kwargs
                )

            # The call above has written the tags of media that the user did not place into the messages.
            prompter = template.mm_plugin.prompter(processor)
            thought_words = registry.get(template.mm_plugin.backbone).thought_words
            _call.reply = TubeReply(prompter, messages, images or [], videos or [], thought_words)
            if batched or cache is not None:
                _call.item = prompt_item(prompter, gen_kwargs["inputs"], messages, images or [], videos or [])

            if cache is not None and not batched:
                gen_kwargs |= media_inputs(cache, model, prompter, _call.item, gen_kwargs["generation_config"])

        gen_kwargs["box_sink"] = _call.reply.sink
        return gen_kwargs, prompt_length

    @wraps(chat)
    def _chat(*args, **kwargs):
        responses = chat(*args, **kwargs)
        for response in responses if _call.reply is not None else []:
            response.response_text = "".join(_call.reply.complete([response.response_text]))

        return responses

    @wraps(stream_chat)
    def _stream_chat(*args, **kwargs):
        stream = stream_chat(*args, **kwargs)
        reply = _call.reply
        if reply is None:
            return stream

        def pieces():
            try:
                while True:
                    yield stream()
            except StopAsyncIteration:
                return

        iterator = reply.complete(pieces())

        def stream_with_block():
            try:
                return next(iterator)
            except StopIteration:
                raise StopAsyncIteration() from None

        return stream_with_block

    engine.__init__, engine.chat = __init__, _ask
    engine._process_args = staticmethod(_process_args)
    engine._chat, engine._stream_chat = staticmethod(_chat), staticmethod(_stream_chat)
