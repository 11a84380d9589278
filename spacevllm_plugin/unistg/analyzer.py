"""Stage 1: a language model names what a caption speaks of and a detector could box, the main subject first."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ..data.schema import AnnotationRow
from .endpoint import Endpoint, EndpointError, QuestionError
from .rows import Analyzed, Kept, Rejected


MAX_OBJECTS, MAX_LENGTH = 8, 100
# How often the model is asked for one caption, its invalid answers shown back to it.
MAX_ANSWERS = 3
CONTROL_CAPTION = "A man opens a door."

INSTRUCTION = (
    "You prepare captions of videos for an object detector. From the caption, extract the concrete, visible things that "
    "a box can be drawn around: people, animals, objects. The main subject of the sentence, who or what acts, comes "
    "first. Write each as a short noun phrase with the attributes that the caption gives (colour, clothing, size), "
    "without verbs, and at most eight of them. Leave out actions, places as a whole, times, feelings and everything "
    "abstract. If nothing can be boxed, the list is empty.\n"
    'Answer with JSON only: {"objects": ["…", "…"]}\n'
    'Example: "The man in red opens the door and leaves." -> {"objects": ["man in red", "door"]}'
)


class Answer(BaseModel):
    """What the model must answer: nothing more, nothing less."""

    model_config = ConfigDict(extra="forbid", strict=True)

    objects: list[str]

    # Not in the JSON schema: servers differ in the limits that they take.
    @field_validator("objects")
    @classmethod
    def _check(cls, objects: list[str]) -> list[str]:
        phrases = [" ".join(phrase.split()).rstrip(".") for phrase in objects]
        if len(phrases) > MAX_OBJECTS:
            raise ValueError(f"{len(phrases)} objects, at most {MAX_OBJECTS}")

        for phrase in phrases:
            if not 0 < len(phrase) <= MAX_LENGTH:
                raise ValueError(f"a phrase of {len(phrase)} characters: {phrase[:20]!r}")

            if not any(map(str.isalnum, phrase)):
                raise ValueError(f"a phrase without a word: {phrase!r}")

        return list(dict.fromkeys(phrases))


SCHEMA = {
    "type": "object",
    "properties": {"objects": {"type": "array", "items": {"type": "string"}}},
    "required": ["objects"],
    "additionalProperties": False,
}


def parse_answer(text: str) -> list[str]:
    """The objects in a model's answer; a code fence or a thought before the JSON is passed over.

    Raises:
        ValueError: One line that says what is wrong with it.
    """
    text = text.rpartition("</think>")[2]
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise ValueError("no JSON object in it")

    try:
        return Answer.model_validate_json(text[start : end + 1]).objects
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place + ': ' if place else ''}{first['msg']}") from None


class Analyzer:
    """The stage.

    A caption that the server cannot answer is rejected alone if the server still answers another one; if it does not,
    the stage stops, so that a server that is down costs no rows.

    Args:
        endpoint: The language model.
        concurrency: Captions asked at once.
    """

    name = "analyze"
    reads = AnnotationRow
    reasons = {
        "not_vtg": "not a vtg row",
        "no_caption": "the row has no query",
        "no_objects": "the caption names nothing that can be boxed",
        "bad_answer": f"no valid answer in {MAX_ANSWERS}",
        "no_answer": "the server fails on this caption, but not on others",
    }

    def __init__(self, endpoint: Endpoint, concurrency: int = 16) -> None:
        self.endpoint, self.concurrency = endpoint, concurrency
        self.options: dict[str, Any] = {"model": endpoint.model}

    def process(self, rows: Iterator[AnnotationRow]) -> Iterator[tuple[str, Kept | Rejected]]:
        """Ask for several captions at once; answers come as they are ready.

        Raises:
            EndpointError: The server is down; answers that were on their way have been given.
        """
        running: dict[Future, str] = {}
        failure: EndpointError | None = None
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                while True:
                    while failure is None and len(running) < self.concurrency and (row := next(rows, None)):
                        running[pool.submit(self._analyze, row)] = row.id

                    if not running:
                        break

                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        row_id = running.pop(future)
                        try:
                            result = future.result()
                        except EndpointError as err:
                            failure = failure or err
                            self.endpoint.close()
                            continue

                        yield row_id, result
            except BaseException:
                # The pool waits for its threads, these for a further try. Not otherwise: more rows may come.
                self.endpoint.close()
                raise

        if failure:
            raise failure

    def _analyze(self, row: AnnotationRow) -> Kept | Rejected:
        if row.task != "vtg":
            return Rejected("not_vtg", f"a {row.task} row")

        if not (row.query or "").strip():
            return Rejected("no_caption", "no query")

        messages = _question(row.query)
        for _ in range(MAX_ANSWERS):
            try:
                text = self.endpoint.ask(messages, SCHEMA)
            except QuestionError as err:
                self._check_alive(err)
                return Rejected("no_answer", str(err))

            try:
                objects = parse_answer(text)
                break
            except ValueError as err:
                problem = str(err)

            again = f"That answer is not valid: {problem}. Answer again, with the JSON only."
            messages = [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": again}]
        else:
            return Rejected("bad_answer", f"{problem}: {' '.join(text.split())[:200]}")

        if not objects:
            return Rejected("no_objects", row.query)

        return Kept(Analyzed(id=row.id, source=row, objects=objects), {"objects": len(objects)})

    def _check_alive(self, problem: QuestionError) -> None:
        """Raise `EndpointError` if a plain caption gets no answer either."""
        try:
            self.endpoint.ask(_question(CONTROL_CAPTION), SCHEMA, retries=0)
        except QuestionError:
            raise EndpointError(f"{self.endpoint.url}: {problem}") from None


def _question(caption: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": caption}]
