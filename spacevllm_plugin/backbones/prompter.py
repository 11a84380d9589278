"""From media to prompt text and tensors: what every backbone's prompter does alike.

A prompter is stateless. It expands `<video>` and `<image>` into visual tokens with one query token per frame, tells how
large a frame's grid of visual tokens is, and turns frames into the backbone's tensors, all from the backbone's own
processor. What it writes into the prompt and what it hands to the model come from the same plan.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data.frame_cache import FrameCache
from ..data.media import in_order
from ..data.plan import Preprocessing, VideoPlan, plan_video
from ..data.prompt_rules import PromptError, check_messages
from ..data.schema import MEDIA_TAG
from ..data.video import MediaError, Shelf, content_key, image_size, read, read_image
from ..modeling.configuration import STAQ_TOKEN, GroundingOptions


# Frames that a backbone's processor gets at once: what it makes of uint8 on the way is many times as large. Even, since
# backbones merge two.
FRAMES_AT_ONCE = 2
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
USER_PREFIX = "user\n"


@dataclass(frozen=True)
class Grid:
    """Visual tokens of one picture: rows, columns, and tokens from one row's start to the next row's."""

    rows: int
    columns: int
    stride: int


@dataclass(frozen=True)
class ImagePlan:
    """An image as a model sees it."""

    source: Any
    width: int
    height: int

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.source)


def medium_key(plan: VideoPlan | ImagePlan) -> Hashable:
    """What tells a medium, as it is seen, from others of the same batch."""
    if isinstance(plan, VideoPlan):
        return plan.ref, tuple(plan.shown)

    # Pictures in memory are not compared: those of one object are the same.
    return plan.source if isinstance(plan.source, str) else id(plan.source)


def pixels(picture: Image.Image) -> torch.Tensor:
    """An RGB picture as (3, height, width), uint8."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def joined(pieces: Iterable[torch.Tensor], length: int) -> torch.Tensor:
    """Tensors joined along their first dimension, `length` in all; each is let go at once, where `cat` holds all twice."""
    whole, filled = None, 0
    for piece in pieces:
        whole = piece.new_empty(length, *piece.shape[1:]) if whole is None else whole
        whole[filled : filled + len(piece)] = piece
        filled += len(piece)

    return whole


class Prompter(ABC):
    """One backbone's way of writing media into a prompt.

    Args:
        processor: The backbone's own processor (transformers).
        options: Pixel and frame limits.
        grounding: Sampling and prompt options.
        cache: Keeps the resized frames of videos, if given.
        indexes: Keeps the indexes of videos, if given.
    """

    image_token: str
    video_token: str

    def __init__(
        self,
        processor: Any,
        options: Preprocessing,
        grounding: GroundingOptions,
        cache: FrameCache | None = None,
        indexes: Shelf | None = None,
    ) -> None:
        self.processor = processor
        self.options = options
        self.grounding = grounding
        self.cache = cache
        self.indexes = indexes

    @property
    def temporal_patch_size(self) -> int:
        """Frames that the backbone merges into one."""
        return 1

    @abstractmethod
    def grid(self, plan: VideoPlan | ImagePlan) -> Grid:
        """The grid of visual tokens of one frame, or of an image."""

    @abstractmethod
    def video_text(self, plan: VideoPlan, grid: Grid) -> str:
        """The video with its queries; ends with the last query token."""

    @abstractmethod
    def image_text(self, grid: Grid) -> str:
        """The image with its query; ends with the query token."""

    def video_suffix(self, plan: VideoPlan) -> str:
        """What follows a video's last query but is not the caption."""
        return ""

    @abstractmethod
    def resizing(self, plan: VideoPlan | ImagePlan) -> tuple:
        """Whatever `resize` makes its pixels from besides the picture; equal where these would come out equal."""

    @abstractmethod
    def resize(self, plan: VideoPlan | ImagePlan, picture: Image.Image) -> torch.Tensor:
        """An RGB picture in the size that `tensors` takes: (3, height, width), uint8. Runs in decoding threads."""

    @abstractmethod
    def tensors(
        self, plans: list[VideoPlan | ImagePlan], pictures: list[torch.Tensor], grids: list[Grid]
    ) -> dict[str, torch.Tensor]:
        """The backbone's inputs for all media of a batch, in order of appearance: (n, 3, height, width), uint8, of each."""

    # What follows is the same for all.

    def plan(self, image_sources: list[Any], video_sources: list[Any]) -> tuple[list[ImagePlan], list[VideoPlan]]:
        """Plans for media, those that are plans already as they are; raises `MediaError`."""
        sampling, merged = self.grounding.frame_sampling, self.temporal_patch_size

        def image(source: Any) -> ImagePlan:
            return source if isinstance(source, ImagePlan) else ImagePlan(source, *image_size(source))

        def video(source: Any) -> VideoPlan:
            known = isinstance(source, VideoPlan)
            return source if known else plan_video(source, self.options, sampling, merged, self.indexes)

        return [image(source) for source in image_sources], [video(source) for source in video_sources]

    def expand_messages(
        self, messages: list[dict[str, str]], images: list[ImagePlan], videos: list[VideoPlan]
    ) -> list[dict[str, str]]:
        """Replace the `<image>` and `<video>` tags, in order, by visual tokens and queries.

        Raises:
            PromptError: The texts are not fit for it, see `prompt_rules`.
        """
        check_messages(messages, len(images), len(videos))
        plans = iter(in_order(messages, images, videos))

        def expand(match: re.Match) -> str:
            plan = next(plans)
            if isinstance(plan, ImagePlan):
                return self.image_text(self.grid(plan))

            return self.video_text(plan, self.grid(plan)) + self.video_suffix(plan)

        expanded = []
        for message in messages:
            content = message["content"]
            if self.grounding.instruction_first and message["role"] == "user" and MEDIA_TAG.search(content):
                instruction = MEDIA_TAG.sub("", content).strip()
                content = f"{instruction}\n{content}"

            expanded.append({**message, "content": MEDIA_TAG.sub(expand, content)})

        return expanded

    def check_tokens(self, ids: list[int], images: list[ImagePlan], videos: list[VideoPlan]) -> None:
        """Count what the model will look for in a row's tokens against its media.

        Raises:
            PromptError: The counts differ: the tokenizer made more, or less, of the texts than was written there.
        """
        written = "".join(self.image_text(self.grid(plan)) for plan in images)
        written += "".join(self.video_text(plan, self.grid(plan)) for plan in videos)
        for token in (STAQ_TOKEN, self.image_token, self.video_token):
            (token_id,) = self._ids(token)
            found, meant = ids.count(token_id), written.count(token)
            if found != meant:
                raise PromptError(
                    f"{found} times `{token}` in the tokens, but the media have {meant}", "special-token"
                )

    def shared_part(self, ids: list[int], images: list[ImagePlan], videos: list[VideoPlan]) -> tuple[int, int] | None:
        """Tokens of a row that do not depend on its sentence, and tokens of the caption right behind them.

        None where its queries do not all wait for one caption behind the last of them: what a row has then is its own.
        """
        _, lines = self._row_layout(ids, images, videos)
        (staq,) = self._ids(STAQ_TOKEN)
        queries = [position for position, token in enumerate(ids) if token == staq]
        captions = {(position + line[5], line[6]) for position, line in zip(queries, lines)}
        (start, length), *others = captions
        return (start, length) if not others and start > queries[-1] and length > 0 else None

    def model_inputs(
        self,
        token_ids: list[list[int]],
        images: list[list[ImagePlan]],
        videos: list[list[VideoPlan]],
        once: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Read the media of a batch.

        Args:
            token_ids: The rows' tokens, without padding.
            images: Each row's images.
            videos: Each row's videos.
            once: Give the pixels of media that appear several times once, for a model that takes `media`.

        Returns:
            The backbone's visual tensors and `staq_layout`, (total_queries, 8); with `once`, `media` where some appear
            several times, see `SpaceVLLMMixin.forward`.

        Raises:
            MediaError: A picture cannot be read.
        """
        appearance: list[VideoPlan | ImagePlan] = []
        lines: list[list[int]] = []
        for ids, row_images, row_videos in zip(token_ids, images, videos):
            row_plans, row_lines = self._row_layout(ids, row_images, row_videos)
            appearance += row_plans
            lines += row_lines

        media = {medium_key(plan): plan for plan in appearance}  # each is decoded once
        pictures = {key: self.pictures(plan) for key, plan in media.items()}
        repeated = once and len(media) < len(appearance)
        plans = list(media.values()) if repeated else appearance
        grids = [self.grid(plan) for plan in plans]
        inputs = self.tensors(plans, [pictures[medium_key(plan)] for plan in plans], grids)
        if repeated:
            numbers = {key: number for number, key in enumerate(media)}
            inputs |= self.repeated(inputs, plans, [numbers[medium_key(plan)] for plan in appearance])

        return {**inputs, "staq_layout": torch.tensor(lines, dtype=torch.long)}

    def repeated(
        self, inputs: dict[str, torch.Tensor], plans: list[VideoPlan | ImagePlan], appearances: list[int]
    ) -> dict[str, torch.Tensor]:
        """What tells the model, beside the tensors of media given once, where each appears.

        Args:
            inputs: The tensors of `plans`.
            plans: The media, in order of their first appearances.
            appearances: Of each appearance in the batch, the number of its medium.
        """
        return {"media": torch.tensor(appearances)}

    def layout(self, ids: list[int], images: list[ImagePlan], videos: list[VideoPlan]) -> torch.Tensor:
        """One row's `staq_layout`, (its queries, 8), without its media being read."""
        return torch.tensor(self._row_layout(ids, images, videos)[1], dtype=torch.long)

    def prefix_length(self, ids: list[int], last: VideoPlan | ImagePlan) -> int:
        """Tokens of a row up to where its last medium ends: what stands there depends on no sentence behind it.

        Args:
            ids: The row's tokens, without padding.
            last: Its last medium.
        """
        (staq,) = self._ids(STAQ_TOKEN)
        end = len(ids) - ids[::-1].index(staq)
        if isinstance(last, VideoPlan):
            end += self._length(self.video_suffix(last))

        return min(end, len(ids) - 1)

    def pictures(self, plan: VideoPlan | ImagePlan) -> torch.Tensor:
        """A medium's pictures, resized, (n, 3, height, width), uint8: from the cache if it has them.

        Raises:
            MediaError: One of them cannot be read.
        """
        if self.cache is None or not isinstance(plan, VideoPlan):
            return self._read(plan)

        entry = self.cache.path(content_key(plan.ref, plan.shown), type(self).__name__, self.resizing(plan))
        frames = self.cache.get(entry)
        if frames is None:
            frames = self._read(plan).numpy()
            self.cache.put(entry, frames)

        return torch.from_numpy(frames)

    def _read(self, plan: VideoPlan | ImagePlan) -> torch.Tensor:
        """A medium's pictures, each resized before the next is decoded: full-size ones would fill the memory."""
        if isinstance(plan, VideoPlan):
            return torch.stack(read(plan.ref, plan.shown, partial(self.resize, plan)).images)

        return self.resize(plan, read_image(plan.source))[None]

    def _row_layout(
        self, ids: list[int], images: list[ImagePlan], videos: list[VideoPlan]
    ) -> tuple[list[VideoPlan | ImagePlan], list[list[int]]]:
        """A row's media in order of appearance, and the layout's line for each of its queries."""
        staq, image, video = self._ids(STAQ_TOKEN, self.image_token, self.video_token)
        queries = [position for position, token in enumerate(ids) if token == staq]
        images, videos = iter(images), iter(videos)
        plans: list[VideoPlan | ImagePlan] = []
        owners: list[tuple[VideoPlan | ImagePlan, int]] = []  # each query's medium, and its place in it
        while len(owners) < len(queries):
            begin = queries[len(owners) - 1] + 1 if owners else 0
            visual = [token for token in ids[begin : queries[len(owners)]] if token in (image, video)]
            plan = next(images if image in visual else videos, None)
            if plan is None and not plans:
                raise PromptError(
                    f"{len(queries)} `{STAQ_TOKEN}` in the tokens of a row without media", "special-token"
                )

            count = len(plan.groups) if isinstance(plan, VideoPlan) else 1
            fits = plan is not None and len(visual) == self._first_visual(plan)
            if not fits or len(owners) + count > len(queries):
                raise MediaError(f"{(plan or plans[-1]).name}: no longer as it was when the row was tokenised")

            plans.append(plan)
            owners += [(plan, i) for i in range(count)]

        lines = []
        turn_end, caption = -1, (0, 0)
        for position, (plan, index) in zip(queries, owners):
            if position > turn_end:
                turn_end, caption = self._caption(ids, queries, owners, position)

            grid, count, milliseconds = self.grid(plan), 1, 0
            if isinstance(plan, VideoPlan):
                count, milliseconds = len(plan.groups), round(plan.seconds[index] * 1000)
            else:
                index = -1

            start, end = caption
            lines.append(
                [index, count, grid.rows, grid.columns, grid.stride, start - position, end - start, milliseconds]
            )

        return plans, lines

    def _first_visual(self, plan: VideoPlan | ImagePlan) -> int:
        """Visual tokens before a medium's first query."""
        if isinstance(plan, VideoPlan):
            return self.video_text(plan, self.grid(plan)).partition(STAQ_TOKEN)[0].count(self.video_token)

        return self.image_text(self.grid(plan)).count(self.image_token)

    def _caption(
        self, ids: list[int], queries: list[int], owners: list[tuple[VideoPlan | ImagePlan, int]], position: int
    ) -> tuple[int, tuple[int, int]]:
        """The end of a query's turn, and the half-open token range of its caption.

        The caption is the text of the turn behind its last medium, or where that is blank, before its first.
        """
        turn_start, turn_end, *visual = self._ids(TURN_START, TURN_END, self.image_token, self.video_token)
        begin = max((i for i in range(position) if ids[i] == turn_start), default=-1)
        end = next((i for i in range(position, len(ids)) if ids[i] == turn_end), len(ids))
        last = max(i for i, query in enumerate(queries) if query < end)
        plan, _ = owners[last]
        start = queries[last] + 1
        if isinstance(plan, VideoPlan):
            start += self._length(self.video_suffix(plan))

        if self.processor.tokenizer.decode(ids[start:end]).strip():
            return end, (start, end)

        start = begin + 1 + (self._length(USER_PREFIX) if begin >= 0 else 0)
        first_visual = next(i for i in range(start, position) if ids[i] in visual)
        plan, _ = next(owner for query, owner in zip(queries, owners) if query > start)
        return end, (start, max(first_visual - self._length(self._opening(plan)), start))

    def _opening(self, plan: VideoPlan | ImagePlan) -> str:
        """What stands before a medium's first visual token."""
        if isinstance(plan, VideoPlan):
            return self.video_text(plan, self.grid(plan)).partition(self.video_token)[0]

        return self.image_text(self.grid(plan)).partition(self.image_token)[0]

    def _ids(self, *tokens: str) -> list[int]:
        return self.processor.tokenizer.convert_tokens_to_ids(list(tokens))

    def _length(self, text: str) -> int:
        return len(self.processor.tokenizer.encode(text, add_special_tokens=False)) if text else 0
