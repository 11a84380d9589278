"""Hook on `webui.chatter`: a reply of one of our models is shown as its text, a video, pictures and folded JSON."""

import json
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from ...data.output import replaced
from ...data.prompt_rules import PromptError
from ...data.reply import Tube, VideoTube, split_block, without_block
from ...data.video import MediaError, VideoRef, probe
from ...inference.draw_reply import draw_reply, drawn_clip
from ..template import is_ours
from .shown import reply_folder
from .texts import text


Shown = list[dict[str, Any]]  # messages of a `gr.Chatbot`


def described(tube: Tube, lang: str) -> str:
    """One line on a tube."""
    if not isinstance(tube, VideoTube):
        return f"{text('box', lang)}: " + ", ".join(f"{value:.1f}" for value in tube.box)

    if tube.span_frames is None:
        return text("no_span", lang)

    (start, end), (first, last) = tube.span_seconds, tube.span_frames
    return text("span", lang, start=start, end=end, first=first, last=last - 1)


def as_json(tubes: list[Tube]) -> str:
    """The tubes as the API gives them, one field a line."""
    fields = [[f'    "{name}": {json.dumps(value)}' for name, value in tube.model_dump().items()] for tube in tubes]
    return '{"tubes": [\n' + ",\n".join("  {\n" + ",\n".join(lines) + "\n  }" for lines in fields) + "\n]}"


def folded(content: str) -> str:
    """JSON that is shown when it is asked for."""
    return f"<details><summary>JSON</summary>\n\n```json\n{content}\n```\n\n</details>"


def message(content: str | Path) -> dict[str, Any]:
    """A message of the model's: markdown or a file."""
    return {"role": "assistant", "content": {"path": str(content)} if isinstance(content, Path) else content}


def illustrated(
    shown: Shown, tubes: list[Tube], image: Any, video: str | None, folder: Path, caption: str, lang: str
) -> Iterator[Shown]:
    """The conversation with the last reply's tubes, as they get drawn.

    Args:
        shown: The conversation as LLaMA-Factory shows it.
        tubes: The last reply's.
        image: The image on the page.
        video: The path of the video on the page.
        folder: For the pictures.
        caption: The question.
        lang: The page's language.
    """
    *others, reply = shown
    content = as_json(tubes)
    with replaced(folder / "tubes.json") as file:
        file.write(content.encode())

    lines = [without_block(reply["content"]), *(f"**{described(tube, lang)}**" for tube in tubes)]
    last = [message(folded(content)), message(folder / "tubes.json")]
    pictures: Shown = []

    def conversation(*more: str) -> Shown:
        return [*others, message("\n\n".join([*lines, *more])), *pictures, *last]

    yield conversation(text("drawing", lang))
    for number, tube in enumerate(tubes, start=1):
        medium = video if isinstance(tube, VideoTube) else image
        try:
            for picture in draw_reply(tube, medium, folder / f"tube_{number}", caption):
                pictures.append(message(picture))
                yield conversation(text("drawing", lang))

            if isinstance(tube, VideoTube):
                lines += part_drawn(tube, medium, lang)
        except (MediaError, OSError) as err:
            lines.append(text("not_drawn", lang, reason=reason(err, video)))

    yield conversation()


def part_drawn(tube: VideoTube, video: str, lang: str) -> list[str]:
    """Which part of a long video is drawn."""
    timeline = probe(VideoRef.parse(video)).timeline
    clip = drawn_clip(timeline, tube.span_frames)
    if clip == (0, timeline.num_frames):
        return []

    start, end = timeline.span_seconds(clip)
    return [text("part", lang, start=start, end=end)]


def reason(err: Exception, video: str | None) -> str:
    """What is wrong, without the place where the server keeps a user's video."""
    return str(err).replace(video, Path(video).name) if video else str(err)


def install(module: ModuleType) -> None:
    """Wrap the function that answers on the page."""
    stream = module.WebChatModel.stream

    @wraps(stream)
    def _stream(self, chatbot, messages, lang, system, tools, image, video, *options):
        answers = stream(self, chatbot, messages, lang, system, tools, image, video, *options)
        if not is_ours(self.engine.template):
            yield from answers
            return

        before = list(chatbot)
        tubes = None
        try:
            for shown, history in answers:
                _, tubes = split_block(history[-1]["content"])
                if tubes is None:
                    yield shown, history
        except (MediaError, PromptError) as err:
            # As if it had not been asked: the next question would stand behind one that has no answer.
            yield before[:-1], messages[:-1]
            raise module.gr.Error(reason(err, video)) from err

        if tubes is not None:
            question = messages[-1]["content"]
            for conversation in illustrated(shown, tubes, image, video, reply_folder(), question, lang):
                yield conversation, history

    module.WebChatModel.stream = _stream
