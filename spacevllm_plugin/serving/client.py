"""How an engine is asked over HTTP, whichever it is."""

import asyncio
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from ..data.video.source import one_line
from .description import EngineExport
from .prompt import EnginePrompt
from .sidecar import States


class EngineError(Exception):
    """An engine gave no answer that can be used; the message is one line that names it."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is generated; greedy by default."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EngineAnswer:
    """One answer.

    Attributes:
        text: Without special tokens.
        finish_reason: Why it ends.
        tokens: Its length.
        states: Of the whole prompt; None for a prompt without media, whose are not read.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int
    states: States | None


@dataclass(frozen=True)
class Launch:
    """How an engine is started.

    Attributes:
        command: Program and arguments.
        environment: Variables that it needs beyond those that are set.
    """

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


class EngineClient(ABC):
    """An engine that serves an export.

    Args:
        url: Its address, without a path.
        export: What it serves.
        folder: Where the export lies.
        timeout: Seconds until an answer counts as lost.
        states: The folder that it puts states into, if it is for this client alone: what nobody has fetched there is removed.
    """

    title: str
    package: str  # what is installed for it, and imported
    # Whether it hands out the states of an earlier layer beside the last one's.
    tells_earlier: bool

    def __init__(
        self, url: str, export: EngineExport, folder: Path, timeout: float, states: Path | None = None
    ) -> None:
        self.url, self.export, self.folder, self.timeout = url.rstrip("/"), export, folder, timeout
        self.states = states
        # Connections end with the request: an engine that was started anew is found again.
        self._limits = httpx.Limits(max_keepalive_connections=0)

    @staticmethod
    def find_problem(export: EngineExport) -> str | None:
        """Why it cannot serve an export, in one line; None if it can."""
        return None

    @staticmethod
    @abstractmethod
    def launch(folder: Path, export: EngineExport, port: int, states: Path, python: str) -> Launch:
        """How it is started for an export.

        Args:
            folder: The export.
            export: Its description.
            port: Where it listens, on this machine alone.
            states: A folder for states that it hands out as files.
            python: Interpreter of the environment that it is installed in.
        """

    @abstractmethod
    async def answer(self, prompt: EnginePrompt, sampling: Sampling) -> EngineAnswer:
        """Ask.

        Raises:
            EngineError: There is no answer that can be used.
            PromptError: The engine would read the prompt's text as something else.
        """

    async def healthy(self) -> bool:
        """Whether it is ready."""
        try:
            async with self._client(timeout=5) as client:
                return (await client.get(f"{self.url}/health")).is_success
        except httpx.HTTPError:
            return False

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        # Of embeddings in a request there may be a hundred megabytes: others must not wait for it.
        content = await asyncio.to_thread(json.dumps, body)
        headers = {"Content-Type": "application/json"}
        try:
            async with self._client(self.timeout) as client:
                reply = await client.post(f"{self.url}{path}", content=content, headers=headers)
        except httpx.TimeoutException:
            raise self._error(f"no answer within {self.timeout:g} s") from None
        except httpx.HTTPError as err:
            raise self._error(f"not reached ({one_line(err) or type(err).__name__})") from None

        if not reply.is_success:
            raise self._error(f"answered {reply.status_code}: {' '.join(reply.text.split())[:300]}")

        try:
            # And of states in an answer.
            answer = await asyncio.to_thread(reply.json)
        except (json.JSONDecodeError, UnicodeDecodeError):
            answer = None

        if not isinstance(answer, dict):
            raise self._error("its answer is not a JSON object")

        return answer

    def _client(self, timeout: float) -> httpx.AsyncClient:
        # What is set for the way to the internet is not for an engine beside us.
        return httpx.AsyncClient(timeout=timeout, limits=self._limits, trust_env=False)

    def _error(self, what: str) -> EngineError:
        return EngineError(f"{self.title} at {self.url}: {what}")

    def _ending(self, reason: str | None) -> Literal["stop", "length"]:
        if reason in ("abort", "error"):
            raise self._error(f"it has broken off the answer ({reason})")

        return "length" if reason == "length" else "stop"

    def _check_count(self, found: int, prompt: EnginePrompt, why: str) -> None:
        if found != len(prompt.token_ids):
            raise self._error(f"states of {found} tokens for a prompt of {len(prompt.token_ids)}; {why}")
