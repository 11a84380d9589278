"""Requests to chat and API that wait at the same time, put together; see `max_batch` and `max_wait_ms`."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from transformers.utils import logging

from ..data.prompt_rules import PromptError
from ..data.video import MediaError
from ..inference.batches import batched


logger = logging.get_logger(__name__)


@dataclass(eq=False)
class Request:
    """One call of LLaMA-Factory's `chat`.

    Attributes:
        arguments: Messages, system, tools, images, videos, audios.
        generating: Everything else: how the answer is to be generated. Only requests that agree in it go together.
        since: When it came, on the monotonic clock.
        answer: What `chat` is to return.
    """

    arguments: tuple
    generating: dict[str, Any]
    since: float = field(default_factory=time.monotonic)
    answer: Future = field(default_factory=Future)


def may_share(asked: dict[str, Any], default: dict[str, Any]) -> bool:
    """Whether a request's answer is what it is alone when others are generated beside it.

    Args:
        asked: What the request says of how to generate.
        default: What the server says.
    """

    def value(name: str) -> Any:
        return default.get(name) if asked.get(name) is None else asked[name]

    return (
        (asked.get("num_return_sequences") or 1) == 1
        and (value("num_beams") or 1) == 1
        and (value("repetition_penalty") or 1) == 1  # padding would count as said before
        and (
            asked.get("max_new_tokens") or not value("max_length")
        )  # the prompt's length counts, and so would padding
        and asked.get("seed") is None  # draws of others would come in between
    )


class Batches:
    """The requests to one engine that wait for it.

    Each request brings a turn of the engine, which it gets in the order of LLaMA-Factory's own semaphore (`MAX_CONCURRENT`),
    like streams and whatever else stays alone. A turn answers the request that has waited longest and those that fit to it;
    so most turns find nothing more to do. With `max_wait` 0, a request that comes alone is answered alone and at once.

    Args:
        engine: LLaMA-Factory's, with its `semaphore`.
        alone: Answers one request.
        together: Answers several, in order, or raises for all of them.
        max_batch: Most requests together.
        max_wait: Most seconds that a request waits for others in its turn.
    """

    def __init__(
        self,
        engine: Any,
        alone: Callable[[Request], Any],
        together: Callable[[list[Request]], list[Any]],
        max_batch: int,
        max_wait: float,
    ) -> None:
        self._engine = engine
        self._alone, self._together = alone, together
        self._max_batch, self._max_wait = max_batch, max_wait
        self._waiting: list[Request] = []
        self._turns: set[asyncio.Task] = set()  # asyncio itself keeps no task alive
        self._looking: set[asyncio.Event] = set()  # of turns that wait for more requests, one each

    async def ask(self, request: Request) -> Any:
        """The answer to a request. One whose caller goes away before its turn is dropped; others do not notice.

        Raises:
            Exception: Whatever the request alone raises.
        """
        self._waiting.append(request)
        self._tell()
        turn = asyncio.create_task(self._turn())
        self._turns.add(turn)
        turn.add_done_callback(self._turns.discard)
        answer = asyncio.wrap_future(request.answer)
        try:
            await asyncio.wait({answer, turn}, return_when=asyncio.FIRST_COMPLETED)
            if turn.done():
                turn.result()  # raises what kept it from its turn

            return await answer
        finally:
            answer.cancel()  # of a caller that goes away, that is; it does nothing once there is an answer

    async def _turn(self) -> None:
        async with self._engine.semaphore:
            await self._fill()
            requests = self._take()
            outcomes = await asyncio.to_thread(self._answer, requests) if requests else []

        for request, outcome in zip(requests, outcomes):
            if isinstance(outcome, Exception):
                request.answer.set_exception(outcome)
            else:
                request.answer.set_result(outcome)

    async def _fill(self) -> None:
        """Wait for others until the batch is full, or the longest waiting request may wait no longer."""
        changed = asyncio.Event()
        self._looking.add(changed)
        try:
            while (left := self._time_left()) > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), left)

                changed.clear()
        finally:
            self._looking.discard(changed)

    def _tell(self) -> None:
        """Let turns look again at who waits."""
        for changed in self._looking:
            changed.set()

    def _time_left(self) -> float:
        """Seconds that the longest waiting request may still wait for others."""
        if not 0 < len(self._waiting) < self._max_batch:
            return 0.0

        return self._waiting[0].since + self._max_wait - time.monotonic()

    def _take(self) -> list[Request]:
        """The next requests to be answered; those whose callers have gone are left out."""
        taken: list[Request] = []
        left: list[Request] = []
        for request in self._waiting:
            if len(taken) == self._max_batch or (taken and request.generating != taken[0].generating):
                left.append(request)
            elif request.answer.set_running_or_notify_cancel():
                taken.append(request)

        self._waiting = left
        self._tell()  # with several turns at once, another may wait for what is gone
        return taken

    def _answer(self, requests: list[Request]) -> list[Any]:
        """Each request's answer, or its error. Where all together fail each half is tried, so that only those at fault do.

        It may be a medium of one of them that cannot be read, or that all of them do not fit into memory.
        """
        try:
            return self._together(requests) if len(requests) > 1 else [self._alone(requests[0])]
        except Exception as err:
            if len(requests) == 1:
                return [err]

            if not isinstance(err, MediaError | PromptError):  # of memory, say; those are told to whom they concern
                logger.warning(f"{len(requests)} requests together: {type(err).__name__}: {err}; now each half apart.")

        # Out of the handler, for what its error held of the device's memory is free again.
        halves = batched(requests, (len(requests) + 1) // 2)
        return [outcome for half in halves for outcome in self._answer(half)]
