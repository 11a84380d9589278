"""What a source of annotations is, and what it hands over: samples, repairs, and what had to be dropped."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..data.schema import Media, Target
from ..data.shortened import shortened


# Of the first case of a repair or a drop: an id, and what is wrong with it.
CASE_WIDTH = 240


class SourceError(Exception):
    """Raw files that cannot be used at all; the message is one line and names the file or the option."""


class Raw(BaseModel):
    """The part of a source's own record that is read; anything else in it is passed over."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


# What a source counts or numbers: beyond it, seconds as floats could not tell neighbours apart.
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]

RawT = TypeVar("RawT", bound=Raw)


@dataclass(kw_only=True)
class Sample:
    """One instance, before it is phrased.

    Attributes:
        id: From content alone; the writer tells exact repetitions apart.
        task: `stvg`, `vtg`, `rec` or `qa`.
        query: The sentence, tidied.
        medium: Path of the video or image below the source's `media_folder`; the writer drops what leads out of it.
        media: As in `AnnotationRow`.
        target: As in `AnnotationRow`.
        group: As in `AnnotationRow`.
        interrogative: The sentence is a question.
        question: The user's words where the source has its own; None takes one of `data.prompts`.
        reply: The assistant's words where the source has its own; None takes one of `data.prompts`.
        tags: As in `AnnotationRow`.
        repairs: Short names of what was mended.
    """

    id: str
    task: str
    query: str
    medium: str
    media: Media | None
    target: Target | None
    group: str | None = None
    interrogative: bool = False
    question: str | None = None
    reply: str | None = None
    tags: dict[str, str] | None = None
    repairs: set[str] = field(default_factory=set)


@dataclass
class Report:
    """What became of a source's items.

    Attributes:
        kept: Rows written.
        repaired: Rows written of which something was mended.
        repairs: The same by reason; one row may count under several.
        dropped: Items left out, by reason.
        examples: For every reason its first case.
    """

    kept: int = 0
    repaired: int = 0
    repairs: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, case: str) -> None:
        """Count an item that is left out."""
        self.dropped[reason] += 1
        self._example(reason, case)

    def keep(self, row_id: str, repairs: set[str]) -> None:
        """Count a row that was written."""
        self.kept += 1
        self.repaired += bool(repairs)
        for reason in sorted(repairs):
            self.repairs[reason] += 1
            self._example(reason, row_id)

    def _example(self, reason: str, case: str) -> None:
        if reason not in self.examples:
            self.examples[reason] = shortened(case, CASE_WIDTH)

    def summary(self) -> dict[str, Any]:
        """Counts as written to `OUT.summary.json`."""
        dropped = self.dropped.total()
        return {
            "rows": {
                "read": self.kept + dropped,
                "kept": self.kept,
                "repaired": self.repaired,
                "dropped": dropped,
            },
            "repaired": dict(self.repairs.most_common()),
            "dropped": dict(self.dropped.most_common()),
            "examples": self.examples,
        }


def option(help: str, type: type = str, default: Any = MISSING, choices: tuple[str, ...] | None = None) -> Any:
    """A field of a source that is also an option of the command; without a default it is required."""
    return field(default=default, metadata={"help": help, "type": type, "choices": choices})


@dataclass(kw_only=True)
class Source(ABC):
    """One kind of raw files; its fields are the command's options.

    Attributes:
        name: As in `spacevllm-cli convert NAME`.
        folder: Folder of its media below the media folder.
        example: Options of an example command.
        probes: Whether it may look at media files, by `probing.probe`.
    """

    name: ClassVar[str]
    folder: ClassVar[str]
    example: ClassVar[str]
    probes: ClassVar[bool] = False

    @property
    @abstractmethod
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""

    @property
    def media_folder(self) -> str:
        """What the paths in the rows start with: `folder`, unless an option names another."""
        return self.folder

    def __enter__(self) -> "Source":
        """Around `samples`: what it needs open meanwhile."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""

    @property
    def note(self) -> str | None:
        """One line on what the rows will lack for want of an option; None if nothing."""
        return None

    @abstractmethod
    def samples(self, report: Report) -> Iterator[Sample]:
        """Read the raw files item by item.

        Args:
            report: Takes what is left out; what is kept or mended is counted by the writer.

        Raises:
            SourceError: A file is missing, is not of this format, or an option that it needs was not given.
        """


def parse_raw(model: type[RawT], data: Any, report: Report, case: str) -> RawT | None:
    """One raw record (decoded, or JSON as bytes); None, and counted as `malformed`, if it lacks something or holds nonsense."""
    try:
        return model.model_validate_json(data) if isinstance(data, bytes) else model.model_validate(data)
    except ValidationError as err:
        report.drop("malformed", f"{case}: {first_error(err)}")
        return None


def first_error(err: ValidationError) -> str:
    """The first thing that a model found wrong, and where, in a line that may be of any length."""
    first = err.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"


def existing(path: Path, what: str) -> Path:
    """The path; raises `SourceError` if there is nothing."""
    if not os.path.exists(path):
        raise SourceError(f"{what}: {path} does not exist")

    return path


def text_key(text: str) -> str:
    """A short name for a text, the same in every run."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()
