"""The tubes of a chat reply, as objects and as the JSON block that stands behind the reply's text."""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError


Box = tuple[float, float, float, float]

OPENING, CLOSING = "\n\n```json\n", "\n```"
# One line of JSON: to look beyond it for a closing that is missing would take the square of a long message.
BLOCK = re.compile(re.escape(OPENING) + r'(\{"tubes": .*\})' + re.escape(CLOSING))


class VideoTube(BaseModel):
    """Where the described thing is in one video of the conversation, and when."""

    kind: Literal["video"] = "video"
    span_seconds: tuple[float, float] | None = Field(
        description="Start and end in seconds of the file; null where the text names no time."
    )
    span_frames: tuple[int, int] | None = Field(
        description="The same as a half-open range of 0-based native frames of the file."
    )
    frames: list[int] = Field(description="The native frames that the model saw, inside the span and outside it.")
    boxes: list[Box] = Field(
        description="One box for each of `frames`: x1, y1, x2, y2 in pixels of the original frame, as displayed. At "
        "other frames of the span the tube is their linear interpolation."
    )


class ImageTube(BaseModel):
    """Where the described thing is in one image of the conversation."""

    kind: Literal["image"] = "image"
    box: Box = Field(description="x1, y1, x2, y2 in pixels of the image as displayed.")


Tube = Annotated[VideoTube | ImageTube, Field(discriminator="kind")]


class _Block(BaseModel):
    tubes: list[Tube]


def write_block(tubes: Sequence[Tube]) -> str:
    """The block for a reply's tubes, which are in the order in which the media appear in the conversation."""
    return OPENING + json.dumps({"tubes": [tube.model_dump() for tube in tubes]}) + CLOSING


def without_block(text: str) -> str:
    """A message without the blocks in it: the model never wrote them."""
    return BLOCK.sub("", text)


def split_block(text: str) -> tuple[str, list[Tube] | None]:
    """A reply's text and its tubes; None where it ends in no block, for then there was no video or image."""
    *_, last = [None, *BLOCK.finditer(text)]
    if last is None or last.end() != len(text):
        return text, None

    try:
        return text[: last.start()], _Block.model_validate_json(last[1]).tubes
    except ValidationError:  # a model that was trained on replies may write what looks like a block
        return text, None
