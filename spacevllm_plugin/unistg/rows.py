"""What a row looks like between the stages, and what a stage answers for one row."""

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from ..data.schema import AnnotationRow


Box = tuple[float, float, float, float]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Detection(_Model):
    """One box that the detector found.

    Attributes:
        label: Which of the row's `objects`, 0-based; 0 is the main subject.
        score: Confidence in 0..1.
        box: xyxy in pixels of the original frame.
    """

    label: int
    score: float
    box: Box


class AnnotatedFrame(_Model):
    """One frame that the detector looked at.

    Attributes:
        frame: 0-based native frame of the file.
        seconds: Where the frame starts and ends.
        detections: What was found; may be empty.
        subject: Index of the detection that is on the main subject's tube; None: none is, or `refine` has not run.
    """

    frame: int
    seconds: tuple[float, float]
    detections: list[Detection]
    subject: int | None = None

    @property
    def subject_box(self) -> Box | None:
        """The main subject's box."""
        return None if self.subject is None else self.detections[self.subject].box


class Analyzed(_Model):
    """After `analyze`.

    Attributes:
        id: The source row's.
        source: The vtg row this is made from; its query is the caption, its span the coarse span.
        objects: Noun phrases of the caption that can be boxed, the main subject first.
    """

    id: str
    source: AnnotationRow
    objects: list[str]


class Annotated(Analyzed):
    """After `annotate`: the frames of the coarse span that were looked at, increasing."""

    frames: list[AnnotatedFrame]


class Refined(Annotated):
    """After `refine`: only the frames of the tight span, with the main subject's tube.

    Attributes:
        span_frames: Half-open range of native frames from the tube's first box to its last.
        span_seconds: The same in seconds.
    """

    span_frames: tuple[int, int]
    span_seconds: tuple[float, float]


@dataclass(frozen=True)
class Kept:
    """A row that goes on to the next stage; `counts` are added up over all rows."""

    row: BaseModel
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A row that stops here; `reason` is one of the stage's, `detail` one line for a person."""

    reason: str
    detail: str
    counts: dict[str, int] = field(default_factory=dict)
