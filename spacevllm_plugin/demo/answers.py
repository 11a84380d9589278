"""Sentences in, answers out: what the model says, how it compares with the truth, and what the visitor puts right."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ..data.prompt_rules import PromptError, check_messages
from ..data.prompts import NOT_THERE, instruction
from ..data.schema import VISUAL_TAGS, AnnotationRow, Message, PredictionRow, RowError
from ..data.tube import interpolate_boxes
from ..data.video import MediaError
from ..evaluation.answer import Prediction, read_answer
from ..evaluation.protocols import PROTOCOLS, Rules
from ..exporters import TubeRecord
from ..inference.engine import Engine
from ..inference.predictor import ground_readable
from ..inference.render import Tube
from .limits import MOST_LETTERS, MOST_SENTENCES, Refused
from .medium import Medium


# Told apart by colour-blind readers (Okabe and Ito), with white letters on them, on a light and on a dark page.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#B0579A", "#A67C00", "#2E8BC0", "#6A4FB0", "#8A5A44")
TRUTH_COLOR = "#7A7A7A"

Box = tuple[float, float, float, float]


@dataclass
class Answered:
    """One sentence, and what is known of it.

    Attributes:
        query: The sentence.
        color: `#RRGGBB`, its own.
        messages: What the model was asked.
        prediction: What it answered.
        truth: The annotation row of the same sentence.
        scores: `tIoU` and `vIoU`, or `IoU`; empty without a truth.
        drawn: Boxes that the visitor drew, by native frame.
        span_seconds: The span that the visitor set.
    """

    query: str
    color: str
    messages: list[Message]
    prediction: PredictionRow
    truth: AnnotationRow | None = None
    scores: dict[str, float] = field(default_factory=dict)
    drawn: dict[int, Box] = field(default_factory=dict)
    span_seconds: tuple[float, float] | None = None

    @property
    def found(self) -> bool:
        """Whether the answer says where (and for a video when) the thing is."""
        prediction = self.prediction
        return prediction.status == "ok" and (prediction.span_frames is not None or prediction.frames == [0])

    @property
    def status(self) -> str:
        """The answer in words."""
        if self.prediction.status == "failed":
            return "the model could not read it"

        if self.found:
            return "found"

        says_so = NOT_THERE.rstrip(".").casefold() in self.prediction.text.casefold()
        return "not there" if says_so else "no time could be read from the answer"

    def tube(self, label: str) -> Tube:
        """The answer to draw."""
        prediction = self.prediction
        return Tube(prediction.span_frames, prediction.frames or [], prediction.boxes or [], label, self.color)

    def true_tube(self, label: str) -> Tube | None:
        """The truth to draw."""
        if self.truth is None:
            return None

        target = self.truth.target
        return Tube(target.span_frames, target.frames or [], target.boxes or [], label, TRUTH_COLOR)

    def record(self, medium: Medium, number: int) -> TubeRecord:
        """The answer to export, as sentence `number` about a medium, which the visitor's own name stands for."""
        clock = medium.timeline
        return TubeRecord(
            id=f"{medium.name}/{number}",
            query=self.query,
            media=medium.name,
            width=medium.width,
            height=medium.height,
            prediction=self.prediction,
            fps=clock.fps if clock else None,
            num_frames=clock.num_frames if clock else None,
            truth=self.truth,
            source=medium.ref if clock else None,
        )

    def boxes_at(self, frame: int) -> dict[str, Box]:
        """Boxes at a native frame: the `answer`'s and the `truth`'s inside their spans, and the one `drawn` there."""
        boxes = {"drawn": self.drawn.get(frame)}
        for name, tube in (("answer", self.tube("")), ("truth", self.true_tube(""))):
            if tube is not None and tube.frames and (tube.covers(frame) or tube.span_frames is None and self.found):
                boxes[name] = tuple(interpolate_boxes(tube.frames, tube.boxes, [frame])[0].tolist())

        return {name: box for name, box in boxes.items() if box is not None}


def read_sentences(text: str) -> list[str]:
    """One sentence a line; raises `Refused` where there are none, or too many, or too long ones."""
    sentences = list(dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip()))
    if not sentences:
        raise Refused("write a sentence first: what is to be found?")

    if len(sentences) > MOST_SENTENCES:
        raise Refused(f"{len(sentences)} sentences: {MOST_SENTENCES} are taken at a time")

    if max(map(len, sentences)) > MOST_LETTERS:
        raise Refused(f"a sentence may have {MOST_LETTERS} letters")

    return sentences


def ask(
    engine: Engine,
    medium: Medium,
    sentences: list[str],
    truths: list[AnnotationRow],
    max_new_tokens: int,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Answered]:
    """Ground sentences one by one, so that a visitor's answer does not depend on who else asks.

    Args:
        engine: The loaded model.
        medium: Where to look.
        sentences: What to look for.
        truths: Annotation rows about the medium.
        max_new_tokens: Longest answer.
        tell: Called with the number of sentences done before each.

    Raises:
        Refused: A sentence that is not fit for a prompt, or a medium that cannot be decoded.
    """
    task, column = ("stvg", "videos") if medium.timeline else ("rec", "images")
    by_query: dict[str, AnnotationRow] = {}
    for row in truths:  # of rows with the same sentence, the first
        by_query.setdefault(" ".join(row.query.split()).casefold(), row)

    media = {"images": [], "videos": [], column: [str(medium.path)]}
    answered = []
    for number, query in enumerate(sentences):
        tell(number)
        messages = [{"role": "user", "content": VISUAL_TAGS[column] + instruction(task, query)}]
        try:
            check_messages(messages, len(media["images"]), len(media["videos"]))
            item = engine.item(query, task, messages, **media)
        except PromptError as err:
            raise Refused(f"sentence {number + 1}: {err}") from None
        except MediaError as err:
            raise Refused(str(err).replace(str(medium.path), medium.name)) from None

        (prediction,) = ground_readable(engine, [item], max_new_tokens)
        if prediction.error:
            prediction.error = prediction.error.replace(str(medium.path), medium.name)

        one = Answered(query, COLORS[number % len(COLORS)], [Message(**messages[0])], prediction)
        one.truth = by_query.get(query.casefold())
        one.scores = _scores(one.truth, prediction)
        answered.append(one)

    return answered


def _scores(truth: AnnotationRow | None, prediction: PredictionRow) -> dict[str, float]:
    """How an answer compares with the truth, by the `native` protocol."""
    if truth is None:
        return {}

    try:
        answer = read_answer(truth, Prediction.of(prediction), "linear")
    except RowError:
        return {}

    values = PROTOCOLS["native"][truth.task].score(truth, answer, Rules()).values
    names = {"tIoU": "tIoU", "vIoU": "vIoU", "IoU": "tIoU" if truth.task == "vtg" else "IoU"}
    return {name: values[column] for column, name in names.items() if values.get(column) is not None}
