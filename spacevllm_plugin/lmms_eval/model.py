"""The adapter: lmms-eval's requests in, our engine's answers out."""

import logging
import os
from itertools import islice
from typing import Any

from lmms_eval.api.model import lmms
from tqdm import tqdm

from ..bootstrap import install
from ..data.prompt_rules import PromptError
from ..data.schema import VISUAL_TAGS
from ..data.video import MediaError
from ..inference.predictor import ground_readable
from ..integration.engine_loader import load_engine


MAX_NEW_TOKENS = 64
# Documents hand over videos as paths; whatever else a document shows is an image.
VIDEO_TYPES = (str, os.PathLike)

logger = logging.getLogger(__name__)


class SpaceVLLM(lmms):
    """A SpaceVLLM checkpoint, in one process; answers are greedy.

    Args:
        pretrained: Checkpoint folder or hub id.
        adapter: Adapter folder.
        batch_size: Requests per generation.
        device: Passed over, as `max_batch_size` is: LLaMA-Factory's loader places the model.
        max_batch_size: See `device`.
        **arguments: Further LLaMA-Factory arguments, by their YAML names.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        adapter: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError("spacevllm in lmms-eval runs in one process; `spacevllm-cli benchmark` runs in several.")

        install()
        self.engine = load_engine(pretrained, adapter, **arguments)
        self.batch_size = int(batch_size)

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Answers in the requests' order; an empty one, and a warning, where a medium or a text cannot be used."""
        answers = []
        pending, bar = iter(requests), tqdm(total=len(requests), desc="spacevllm")
        while batch := list(islice(pending, self.batch_size)):
            answers += self._answer(batch)
            bar.update(len(batch))

        if empty := answers.count(""):
            logger.warning(
                "%d of %d answers are empty: some tasks, as MVBench, leave these out of their mean",
                empty,
                len(answers),
            )

        return answers

    def _answer(self, requests: list[Any]) -> list[str]:
        items, failed = [], {}
        for place, request in enumerate(requests):
            try:
                items.append(self._item(str(place), request))
            except (MediaError, PromptError) as err:
                failed[str(place)] = str(err)

        limit = max(request.args[1].get("max_new_tokens", MAX_NEW_TOKENS) for request in requests)
        texts = {}
        for prediction in ground_readable(self.engine, items, limit) if items else ():
            texts[prediction.id] = prediction.text
            if prediction.status == "failed":
                failed[prediction.id] = prediction.error

        for error in failed.values():
            logger.warning("no answer: %s", error)

        answers = []
        for place, request in enumerate(requests):
            context, options = request.args[:2]
            answer = _cut(texts.get(str(place), ""), options.get("until") or [])
            self.cache_hook.add_partial("generate_until", (context, options), answer)
            answers.append(answer)

        return answers

    def _item(self, item_id: str, request: Any) -> Any:
        context, _, doc_to_visual, doc_id, task, split = request.args
        visuals = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        videos = [os.fspath(visual) for visual in visuals if isinstance(visual, VIDEO_TYPES)]
        images = [visual for visual in visuals if not isinstance(visual, VIDEO_TYPES)]
        for tag in VISUAL_TAGS.values():
            context = context.replace(tag, "")

        content = VISUAL_TAGS["videos"] * len(videos) + VISUAL_TAGS["images"] * len(images) + context
        return self.engine.item(item_id, "qa", [{"role": "user", "content": content}], images, videos)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not offered: the four benchmarks of the paper generate."""
        raise NotImplementedError("spacevllm generates; it has no loglikelihood")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not offered: see `loglikelihood`."""
        raise NotImplementedError("spacevllm answers one round")


def _cut(text: str, until: str | list[str]) -> str:
    """The text before the first of the stop strings; a blank line is none, as reasoning may hold some."""
    for stop in [until] if isinstance(until, str) else until:
        if stop.strip():
            text = text.split(stop)[0]

    return text.strip()
