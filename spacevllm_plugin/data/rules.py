"""What a row must keep to beyond its schema: it agrees with its media file, its answer and itself."""

from dataclasses import dataclass

from .facts import Facts
from .prompt_rules import check_text
from .schema import AnnotationRow, Media, RowError, RowFields, parse_row, split_turns
from .shortened import shortened
from .span_parser import read_span, says_span
from .timeline import Timeline


# How far the clocks of annotation and file may drift apart over the file: a frame, or what an answer rounds away.
DRIFT_SECONDS = 0.1
# Decimals of seconds are rounded too.
ROUNDING_SECONDS = 0.01


@dataclass(frozen=True)
class Clock:
    """Seconds of native frames: the file's own where its rate varies, else the annotation's."""

    timeline: Timeline
    seconds: dict[int, float] | None = None

    @classmethod
    def of(cls, media: Media, facts: Facts | None) -> "Clock":
        """The clock of a row with `media.fps` and `media.num_frames`."""
        seconds = facts.seconds if facts is not None else None
        return cls(Timeline(media.num_frames, media.fps), seconds)

    def at(self, frame: int) -> float:
        """When a frame starts."""
        own = (self.seconds or {}).get(frame)
        return self.timeline.seconds(frame) if own is None else own


class MismatchError(RowError):
    """A row that says something else of its media file than the file does."""


def first_error(row: RowFields, facts: Facts | None) -> RowError | None:
    """The first thing wrong with a row.

    Args:
        row: Checked by its schema already, or not (after a repair).
        facts: What the row's (first) medium holds; None where it cannot be used or there is none.
    """
    try:
        if not isinstance(row, AnnotationRow):
            row = parse_row(row.model_dump(exclude_none=True))

        for message in row.messages:
            check_text(message.content, message.role)

        split_turns(row.messages)
        check_fit(row, facts)
        if row.task in ("stvg", "vtg"):
            _check_answer(row)

        if row.task == "stvg":
            _check_frames(row)
    except RowError as err:
        return err

    return None


def check_fit(row: AnnotationRow, facts: Facts | None) -> None:
    """The rules that training keeps to as well: a row's `media` and seconds are those of its file.

    Args:
        row: Checked by its schema already.
        facts: What the row's (first) medium holds; None where it cannot be used or there is none.

    Raises:
        MismatchError: They are not.
    """
    if facts is not None and row.media is not None:
        _check_facts(row, facts)

    if row.task in ("stvg", "vtg"):
        if row.media is not None:
            _check_seconds(row, Clock.of(row.media, facts))
        elif facts is not None and facts.duration is not None:
            _check_duration(row, facts.duration)


def _check_facts(row: AnnotationRow, facts: Facts) -> None:
    media = row.media
    said_size, found_size = (media.width, media.height), (facts.width, facts.height)
    if said_size != found_size:
        said, found = ("x".join(map(str, size)) for size in (said_size, found_size))
        turned = " (sizes are those of the picture as displayed)" if sorted(said_size) == sorted(found_size) else ""
        raise MismatchError(f"media says {said} pixels, but the file has {found}{turned}", "media-size")

    count = facts.num_frames
    if count is None:
        return

    if media.clip is not None and media.clip[0] >= count:
        raise MismatchError(f"clip {list(media.clip)} holds none of the file's {count} frames", "clip-outside")

    if media.fps and facts.fps:
        drift = abs(count / media.fps - count / facts.fps)
        if drift > max(DRIFT_SECONDS, 1 / facts.fps):
            reason = f"media says {media.fps:g} frames a second, but the file has {facts.fps:g}"
            raise MismatchError(f"{reason}: {drift:.2f} s apart at its end", "media-fps")

    if media.num_frames is not None and media.num_frames != count:
        raise MismatchError(f"media says {media.num_frames} frames, but the file has {count}", "media-frames")


def _check_seconds(row: AnnotationRow, clock: Clock) -> None:
    """`span_frames` and `span_seconds` say the same, to within a frame."""
    span, seconds = row.target.span_frames, row.target.span_seconds
    slack = 1 / row.media.fps + ROUNDING_SECONDS
    apart = [abs(clock.at(frame) - second) > slack for frame, second in zip(span, seconds)]
    if not any(apart):
        return

    beyond = not apart[0] and span[1] == row.media.frame_range[1] and seconds[1] > clock.at(span[1])
    meant = [round(clock.at(frame), 2) for frame in span]
    raise MismatchError(
        f"span_seconds {list(seconds)} are not those of span_frames {list(span)}: {meant}",
        "span-beyond-end" if beyond else "span-seconds",
    )


def _check_duration(row: AnnotationRow, duration: float) -> None:
    """A row without `media` says its span in seconds only."""
    start, end = row.target.span_seconds
    if end > duration + DRIFT_SECONDS:
        kind = "span-beyond-end" if start < duration else "span-outside"
        raise MismatchError(f"span_seconds {[start, end]} of a video of {duration:.2f} s", kind)


def _check_answer(row: AnnotationRow) -> None:
    answers = [message.content for message in row.messages if message.role == "assistant"]
    written = [text for text in answers if read_span(text) is not None]
    if not written:
        raise RowError(f"no span can be read from the answer '{shortened(answers[-1])}'", "answer-unreadable")

    if not any(says_span(text, row.target.span_seconds) for text in written):
        found, meant = list(read_span(written[0])), list(row.target.span_seconds)
        raise RowError(f"the answer says {found} seconds, but the target {meant}", "answer-span")


def _check_frames(row: AnnotationRow) -> None:
    start, end = row.target.span_frames
    outside = [frame for frame in row.target.frames if not start <= frame < end]
    if outside:
        reason = f"{len(outside)} boxes outside the span {[start, end]}, the first at frame {outside[0]}"
        raise RowError(reason, "frame-outside-span")
