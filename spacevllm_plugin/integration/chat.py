"""Hook on `chat.hf_engine`: replies of chat, API and web chat carry the tube as one JSON block behind the text."""

import json
import threading
from functools import wraps
from types import ModuleType
from typing import Any

from ..data.prompts import read_span
from ..data.targets import pixel_box
from .template import is_ours


_call = threading.local()  # what `_process_args` hands to the `_chat` that called it, in the same thread


class TubeReply:
    """Collects one reply's boxes and writes the block."""

    def __init__(self, prompter: Any, images: list[Any], videos: list[Any]) -> None:
        self.sink: list[Any] = []
        self.images, self.videos = prompter.plan(images, videos)

    def block(self, text: str) -> str:
        """The JSON block for a reply; empty where the prompt held no image or video.

        One object per medium, videos first: `{"video": i, "span_seconds", "span_frames", "frames", "boxes"}` or
        `{"image": i, "box"}`; boxes are xyxy pixels of the original frame, spans half-open native frames.
        """
        if not self.sink:
            return ""

        boxes = iter(self.sink[0].tolist())
        span = read_span(text)
        entries = []
        # Chat puts images before videos wherever the user did not place the tags.
        for i, plan in enumerate(self.images):
            entries.append({"image": i, "box": _rounded(next(boxes), plan)})

        for i, plan in enumerate(self.videos):
            entries.append(
                {
                    "video": i,
                    "span_seconds": span,
                    "span_frames": plan.timeline.span_frames(span, plan.clip) if span else None,
                    "frames": plan.frames,
                    "boxes": [_rounded(next(boxes), plan) for _ in plan.frames],
                }
            )

        return "\n\n```json\n" + json.dumps({"tubes": entries}) + "\n```"


def _rounded(box: list[float], plan: Any) -> list[float]:
    return [round(value, 1) for value in pixel_box(box, plan.width, plan.height)]


def install(module: ModuleType) -> None:
    """Wrap the engine's two ways of answering, and what prepares their inputs."""
    engine = module.HuggingfaceEngine
    process_args, chat, stream_chat = engine._process_args, engine._chat, engine._stream_chat

    @wraps(process_args)
    def _process_args(model, tokenizer, processor, template, generating_args, messages, *args, **kwargs):
        # Taken before the call: it writes the media tags into the messages.
        gen_kwargs, prompt_length = process_args(
            model, tokenizer, processor, template, generating_args, messages, *args, **kwargs
        )
        _call.reply = None
        if is_ours(template):
            images, videos = (list(args[i] or []) if len(args) > i else [] for i in (2, 3))
            _call.reply = TubeReply(template.mm_plugin.prompter(processor), images, videos)
            gen_kwargs["box_sink"] = _call.reply.sink

        return gen_kwargs, prompt_length

    @wraps(chat)
    def _chat(*args, **kwargs):
        responses = chat(*args, **kwargs)
        for response in responses if _call.reply is not None else []:
            response.response_text += _call.reply.block(response.response_text)

        return responses

    @wraps(stream_chat)
    def _stream_chat(*args, **kwargs):
        stream = stream_chat(*args, **kwargs)
        reply, pieces = _call.reply, []
        if reply is None:
            return stream

        def stream_with_block():
            if pieces is None or (pieces and pieces[-1] is None):
                raise StopAsyncIteration()

            try:
                pieces.append(stream())
                return pieces[-1]
            except StopAsyncIteration:
                text = "".join(pieces)
                pieces.append(None)
                return reply.block(text)

        return stream_with_block

    engine._process_args = staticmethod(_process_args)
    engine._chat, engine._stream_chat = staticmethod(_chat), staticmethod(_stream_chat)
