"""A server that speaks OpenAI's chat protocol (vLLM, `llamafactory-cli api`, …): one question, one answer, with retries."""

import random
import threading
from typing import Any

import httpx

from .stage import StageError


RETRIED = {408, 409, 425, 429}
# These are about the set-up (key, model, address), not about one question.
HOPELESS = {301, 302, 307, 308, 401, 403, 404, 405}
LONGEST_WAIT = 60.0  # seconds


class EndpointError(StageError):
    """The server cannot be worked with; the message is one line that names it."""


class QuestionError(Exception):
    """This question got no answer; another one might."""


class Endpoint:
    """A chat model behind an address; may be used from several threads.

    Args:
        base_url: Up to and with `/v1`.
        model: The name that the server knows the model by.
        api_key: Sent as a bearer token; None: nothing is sent.
        timeout: Seconds until an answer counts as lost.
        retries: Further tries after a rate limit, a server error, a lost connection or a timeout.
        backoff: Seconds before the first further try; doubled each time. A `Retry-After` of the server goes first.
        concurrency: Connections kept open.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        backoff: float = 1.0,
        concurrency: int = 16,
    ) -> None:
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model, self.retries, self.backoff = model, retries, backoff
        # Until the server has refused a `response_format`.
        self.structured = True
        self._closed = threading.Event()
        self._client = httpx.Client(
            timeout=timeout,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            limits=httpx.Limits(max_connections=concurrency),
        )

    def close(self) -> None:
        """Wake those who wait for a further try; they raise."""
        self._closed.set()

    def ask(self, messages: list[dict[str, str]], schema: dict[str, Any], retries: int | None = None) -> str:
        """The model's answer, as text.

        Args:
            messages: The conversation.
            schema: JSON schema of the answer. Enforced where the server can; the text must be validated anyway.
            retries: Instead of the endpoint's.

        Raises:
            QuestionError: No answer to this question.
            EndpointError: The server refuses all of them.
        """
        retries = self.retries if retries is None else retries
        payload = {"model": self.model, "messages": messages, "temperature": 0.0, "max_tokens": 512}
        if not self.structured:
            return self._post(payload, retries)

        answer_format = {"name": "answer", "strict": True, "schema": schema}
        try:
            return self._post(
                {**payload, "response_format": {"type": "json_schema", "json_schema": answer_format}}, retries
            )
        except _Refused:
            # Either the server knows no `response_format`, or it is the question: then this raises again.
            answer = self._post(payload, retries)
            self.structured = False
            return answer

    def _post(self, payload: dict[str, Any], retries: int) -> str:
        for attempt in range(retries + 1):
            asked_for = 0.0
            try:
                response = self._client.post(self.url, json=payload)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as err:
                raise EndpointError(f"{self.url}: {err}") from None
            except httpx.RequestError as err:
                problem = str(err) or type(err).__name__
            else:
                status = response.status_code
                problem = f"HTTP {status} {_reason(response)}"
                if status == 200:
                    try:
                        text = str(response.json()["choices"][0]["message"]["content"] or "")
                        # Half of a surrogate pair can be neither sent back nor written down.
                        return text.encode(errors="replace").decode()
                    except (ValueError, LookupError, TypeError):
                        problem = "an answer that is no chat completion"
                elif status in HOPELESS:
                    raise EndpointError(f"{self.url}: {problem}")
                elif status not in RETRIED and (status < 500 or status == 501):
                    raise _Refused(problem)

                asked_for = _retry_after(response)

            if attempt < retries:
                # A part is left to chance, so that those who failed together do not come again together.
                wait = self.backoff * 2**attempt * random.uniform(0.5, 1.0)
                if self._closed.wait(min(max(wait, asked_for), LONGEST_WAIT)):
                    break

        raise QuestionError(f"no answer after {attempt + 1} tries, the last: {problem}")


class _Refused(QuestionError):
    """The server does not take this request as it is."""


def _reason(response: httpx.Response) -> str:
    """What the server says about an error, on one line."""
    try:
        body = response.json()
        error = body.get("error", body)
        text = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = response.text

    return " ".join(str(text).split())[:200]


def _retry_after(response: httpx.Response) -> float:
    try:
        return float(response.headers.get("Retry-After", 0))
    except ValueError:  # a date: rare, and the backoff will do
        return 0.0
