"""What the page does for a visitor, without knowing how it looks."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import exporters
from ..data.schema import AnnotationRow
from ..data.synthetic import SynthConfig, write_set
from ..data.video import read_image
from ..inference.engine import Engine
from ..inference.render import Tube, contact_sheet, render_image, render_video
from .answers import Answered, ask, read_sentences
from .corrections import read_span, save
from .limits import Limits, Refused
from .medium import Medium, open_medium
from .sessions import Session, Sessions
from .truths import read_truths


EXAMPLE_SEEDS = (6, 7)  # of clips that start with something to see
EXPORTED = ("json", "youtube-vis", "coco", "cvat", "label-studio", "gif")  # the quick ones first
DRAWN_SIDE = 960  # pixels of the longer side of the player's video


@dataclass(frozen=True)
class Example:
    """A medium with its annotation, to click."""

    name: str
    medium: Medium
    rows: list[AnnotationRow]


class Desk:
    """One model and its visitors.

    Args:
        engine: The loaded model.
        workspace: Folder for temporary files.
        limits: What a visitor may send.
        max_new_tokens: Longest answer.
        corrections: File that corrected rows are appended to; None where visitors save nothing.
    """

    def __init__(
        self, engine: Engine, workspace: Path, limits: Limits, max_new_tokens: int, corrections: Path | None = None
    ) -> None:
        self.engine, self.limits, self.max_new_tokens, self.corrections = engine, limits, max_new_tokens, corrections
        self.sessions = Sessions(workspace, limits)
        self.examples = make_examples(workspace, limits)

    def open(self, visitor: str, file: str) -> Session:
        """Take an upload as what a visitor looks at; raises `Refused`."""
        return self.sessions.open(visitor, file, Path(file).name)

    def annotate(self, visitor: str, file: str) -> Session:
        """Take annotation rows about what a visitor looks at; raises `Refused`."""
        session = self.sessions.of(visitor)
        session.truths = read_truths(self.sessions.uploaded(file), _medium(session))
        return session

    def example(self, visitor: str, number: int) -> Session:
        """Let a visitor look at an example."""
        session, example = self.sessions.of(visitor), self.examples[number]
        with session.lock:
            session.forget()
            session.medium, session.truths = example.medium, example.rows

        return session

    def ground(self, visitor: str, text: str, tell: Callable[[int, int], None]) -> Session:
        """Answer a visitor's sentences, one a line; raises `Refused`.

        Args:
            visitor: Gradio's `session_hash`.
            text: The sentences.
            tell: Called with the number done and the number of all.
        """
        session = self.sessions.of(visitor)
        medium, truths, session.answered = _medium(session), session.truths, []
        sentences = read_sentences(text)
        answered = ask(
            self.engine, medium, sentences, truths, self.max_new_tokens, lambda done: tell(done, len(sentences))
        )
        with session.lock:
            if session.medium is not medium:
                raise Refused("another file was uploaded in the meantime: please ask again")

            session.answered = answered

        return session

    def session(self, visitor: str) -> Session:
        """A visitor's session; raises `Refused` for one too many."""
        return self.sessions.of(visitor)

    def chosen(self, visitor: str, place: int) -> tuple[Session, Answered]:
        """A visitor's session and the sentence that they put right; raises `Refused` where there is none."""
        session = self.sessions.of(visitor)
        if session.medium is None or place not in range(len(session.answered)):
            raise Refused("nothing was answered yet")

        return session, session.answered[place]

    def save(
        self, visitor: str, place: int, span: tuple[float | None, float | None], only_drawn: bool, absent: bool
    ) -> AnnotationRow:
        """Append what a visitor says of a sentence to the file of corrections; raises `Refused`."""
        session, one = self.chosen(visitor, place)
        with session.lock:
            if session.medium.timeline is not None and not absent:
                one.span_seconds = read_span(*span, session.medium)

            return save(self.corrections, session.medium, one, only_drawn, absent)

    def files(self, visitor: str) -> Iterator[tuple[str, Path]]:
        """What a visitor's answers look like in files, each with its format: first what the page shows, `mp4` and `png`."""
        session = self.sessions.of(visitor)
        medium, answered = session.medium, session.answered
        if medium is None or not answered:
            return

        folder = session.new_folder()
        yield from _drawn(medium, answered, folder)
        tubes = [one.record(medium, number) for number, one in enumerate(answered, start=1)]
        for name in EXPORTED:
            exporter = exporters.get(name)
            if medium.timeline is None and not exporter.images:
                continue

            out = folder / f"{name}{exporter.suffix}"
            exporter.write(out, tubes)
            yield name, out


def _drawn(medium: Medium, answered: list[Answered], folder: Path) -> Iterator[tuple[str, Path]]:
    """Of a video the mp4, then the contact sheet; of an image the image."""
    tubes, caption = _tubes(answered), _caption(answered)
    movie, sheet = folder / "answer.mp4", folder / "answer.png"
    if medium.timeline is None:
        with open(sheet, "wb") as file:
            render_image(read_image(medium.path), tubes, file, caption)

        yield "png", sheet
        return

    with open(movie, "wb") as file:
        render_video(medium.ref, tubes, file, caption, long_side=DRAWN_SIDE)

    yield "mp4", movie
    with open(sheet, "wb") as file:
        contact_sheet(medium.ref, tubes, file, caption)

    yield "png", sheet


def make_examples(workspace: Path, limits: Limits) -> list[Example]:
    """Two clips and an image that are made here; their truth is known."""
    folder = workspace / f"examples_{secrets.token_hex(4)}"
    examples = []
    for seed in EXAMPLE_SEEDS:
        rows = write_set(folder / str(seed), SynthConfig(1, seed, size=240, shift=True, tasks=("stvg", "rec")))
        for column in ("videos", "images"):
            file = next(getattr(row, column)[0] for row in rows if getattr(row, column))
            own = [row for row in rows if file in (row.videos or row.images)]
            name = f"{column[:-1].capitalize()} {1 + len(examples) // 2}"
            medium = open_medium(folder / str(seed) / file, f"Example, {name.lower()}", limits)
            examples.append(Example(name, medium, own))

    return [example for example in examples if example.medium.timeline] + examples[1:2]


def _medium(session: Session) -> Medium:
    if session.medium is None:
        raise Refused("upload a video or an image first")

    return session.medium


def _tubes(answered: list[Answered]) -> list[Tube]:
    several = len(answered) > 1
    tubes = []
    for number, one in enumerate(answered, start=1):
        truth = one.true_tube(f"{number} truth" if several else "truth")
        # The truth is drawn first, and thicker: both can be seen where they agree.
        tubes += [*([truth] if truth else []), one.tube(str(number) if several else "answer")]

    return tubes


def _caption(answered: list[Answered]) -> str:
    if len(answered) == 1:
        return answered[0].query

    return "   ".join(f"{number}: {one.query}" for number, one in enumerate(answered, start=1))
