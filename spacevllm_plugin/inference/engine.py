"""A model ready to ground with, and the prompts of annotation rows for it."""

from dataclasses import dataclass
from typing import Any

from ..backbones.prompter import Prompter
from ..data.media import in_order, locate, video_source
from ..data.schema import VISUAL_TAGS, AnnotationRow
from .items import GroundingItem


@dataclass
class Engine:
    """A loaded model.

    Attributes:
        model: The SpaceVLLM model, in eval mode.
        template: LLaMA-Factory's template object.
        processor: The backbone's processor.
        prompter: The backbone's prompter.
    """

    model: Any
    template: Any
    processor: Any
    prompter: Prompter

    @property
    def sampling(self) -> dict[str, Any]:
        """What the model sees of a video: frames, pixels, and the options it was built with."""
        return {"preprocessing": vars(self.prompter.options).copy(), "grounding": self.prompter.grounding.as_dict()}

    def item(
        self,
        row_id: str,
        task: str,
        messages: list[dict[str, str]],
        images: list[Any],
        videos: list[Any],
        media: Any = None,
        system: str | None = None,
    ) -> GroundingItem:
        """Tokenise a prompt exactly as training does; the last message is the user's.

        Raises:
            MediaError: A medium cannot be opened.
            PromptError: The texts are not fit for a prompt, see `prompt_rules`.
        """
        image_plans, video_plans = self.prompter.plan(images, videos)
        expanded = self.prompter.expand_messages(messages, image_plans, video_plans)
        plans = in_order(messages, image_plans, video_plans)
        expanded = [*expanded, {"role": "assistant", "content": ""}]
        token_ids, _ = self.template.encode_oneturn(self.processor.tokenizer, expanded, system)
        self.prompter.check_tokens(token_ids, image_plans, video_plans)
        return GroundingItem(row_id, task, token_ids, image_plans, video_plans, plans, media)

    def row_item(self, row: AnnotationRow, images: list[Any], videos: list[Any]) -> GroundingItem:
        """The prompt of an annotation row, whose media have been located.

        Raises:
            MediaError: A medium cannot be opened.
            PromptError: Its texts are not fit for a prompt.
        """
        system, messages = row_prompt(row)
        return self.item(row.id, row.task, messages, *shown(messages, images, videos), row.media, system)


def row_prompt(row: AnnotationRow) -> tuple[str | None, list[dict[str, str]]]:
    """A row's system message, and its messages up to the answer that is wanted.

    That is the first answer where there is a target, which is about the first question, and else the last one.
    """
    messages = [message.model_dump() for message in row.messages]
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        return system, messages

    return system, messages[: answers[-1] if row.task == "qa" else answers[0]]


def row_media(row: AnnotationRow, media_dir: Any) -> tuple[list[Any], list[Any]]:
    """Images and videos of an annotation row whose media lie in `media_dir`."""
    images = [locate(image, [str(media_dir)]) for image in row.images or []]
    videos = [video_source(row, i, [str(media_dir)]) for i in range(len(row.videos or []))]
    return images, videos


def shown(messages: list[dict[str, str]], images: list[Any], videos: list[Any]) -> tuple[list[Any], list[Any]]:
    """The images and videos of a row that these messages show: later turns, which were cut off, may show more."""
    text = "".join(message["content"] for message in messages)
    return images[: text.count(VISUAL_TAGS["images"])], videos[: text.count(VISUAL_TAGS["videos"])]


def row_item(engine: Engine, row: AnnotationRow, media_dir: Any) -> GroundingItem:
    """The prompt of an annotation row whose media lie in `media_dir`.

    Raises:
        MediaError: A medium cannot be opened.
        PromptError: Its texts are not fit for a prompt.
    """
    return engine.row_item(row, *row_media(row, media_dir))
