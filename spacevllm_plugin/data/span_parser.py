"""What a model wrote, read back: spans of time, whatever unit and wording they come in.

A server reads any text with this, so the work must grow no faster than the text: runs are possessive (`++`, `*+`, `(?>…)`:
taken whole and never given back), and what may be repeated has a limit.
"""

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .timeline import sampled_span


if TYPE_CHECKING:
    from .plan import VideoPlan


Span = tuple[float, float]


@dataclass(frozen=True)
class WrittenSpan:
    """A span as it stands in a text.

    Attributes:
        start: First moment, or first frame.
        end: Last moment, or last frame (inclusive).
        unit: `frames` where the text counts frames, else `seconds`.
    """

    start: float
    end: float
    unit: Literal["seconds", "frames"]


_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_UNIT_WORDS = {
    "ms": r"ms|msecs?|milliseconds?|毫秒",
    "h": r"hours?|hrs?|h|小时|时",
    "min": r"minutes?|mins?|m|分钟|分",
    "s": r"seconds?|secs?|s|秒钟|秒",
    "frames": r"frames?|帧",
}
_UNIT = "|".join(f"(?:{words})" for words in _UNIT_WORDS.values())
_NUMBER = r"\d++(?:\.\d++)?"
_AMOUNT = rf"{_NUMBER}\s*+(?:(?:{_UNIT})(?![a-z]))?"
_CLOCK = rf"(?:\d++:){{1,2}}{_NUMBER}\s*+(?:(?:s|secs?|seconds?|秒)(?![a-z]))?"
# Hours, minutes, seconds and milliseconds: three may follow the first.
_REST = rf"(?:\s*+{_NUMBER}\s*+(?:{_UNIT})(?![a-z])){{0,3}}"
_WORD = r"(?:frames?|time|t|about|around|approximately|roughly|第|约|大约)\s*+(?:(?:number|no\.|[#=])\s*+)?|[~<≈]\s*+"
# `1:12`, `72 s`, `1 min 12 s`, `frame 12`, `第12秒`; a bare number takes the unit of its neighbour, or seconds.
_TIME = rf"((?>(?:{_WORD}){{0,8}}(?:{_CLOCK}|{_AMOUNT}{_REST})))"
# Not from inside a number, nor after its minus sign, decimal comma or colon; those of a sentence may stand there.
_FRESH = r"(?<![\d.-])(?<!\d[,:])(?<![a-z])"
_TO = r"\s*+(?:>\s*+)?(?:-++>?|~|→|to|until|till|through|up to|直到|至|到)\s*+"
_START = r"\b(?:start\w*|begin\w*|onset)\b|开始|起始"
_END = r"\b(?:end\w*|finish\w*|stop\w*|until)\b|结束|终止"

_BETWEEN = re.compile(rf"(?:\bbetween\s++|在\s*+){_TIME}\s*+(?:and|和|与)\s*+{_TIME}", re.IGNORECASE)
_LABELLED = re.compile(
    rf"(?:{_START})(?>[^\d-]{{0,25}}?{_TIME})[^\d]{{0,30}}?(?:{_END})[^\d-]{{0,25}}?{_TIME}", re.IGNORECASE
)
_CHINESE = re.compile(rf"{_FRESH}{_TIME}\s*+开始[^\d]{{0,12}}{_TIME}\s*+结束")
_BRACKETED = re.compile(rf"[\[({{<]\s*+{_TIME}\s*+(?:>\s*+)?[,;]\s*+<?{_TIME}\s*+[\])}}>]", re.IGNORECASE)
_RANGE = re.compile(rf"{_FRESH}{_TIME}{_TO}{_TIME}", re.IGNORECASE)
_FROM = re.compile(rf"(?:\bfrom\s++|从\s*+){_TIME}{_TO}{_TIME}", re.IGNORECASE)
_MOMENT = re.compile(rf"(?:\b(?:at|around|about|near)\s++|@\s*+|[在于第约]\s*+){_TIME}", re.IGNORECASE)
# Every number of a time, with its unit if it has one.
_PARTS = re.compile(rf"{_NUMBER}\s*+(?:({_UNIT})(?![a-z]))?", re.IGNORECASE)
# A number that is no part of a clock.
_PLAIN = re.compile(rf"(?<![\d.:]){_NUMBER}(?![\d:])")

_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.IGNORECASE | re.DOTALL)
_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)


def answer_part(text: str) -> str:
    """What is left of a reply without its reasoning: the last `<answer>`, or all that stands outside `<think>`.

    Reasoning that was cut off before it ended leaves nothing.
    """
    text = _THINKING.sub(" ", text)
    # Some chat templates put the opening tag into the prompt.
    text = _THOUGHT.split(text)[-1]
    answers = _ANSWER.findall(text)
    return answers[-1] if answers else text


def find_spans(text: str) -> list[WrittenSpan]:
    """Every span of a reply, in order, reversed ones included.

    Reasoning is left out. Two times count as a span where they are joined (`12 to 18`, `0:12 - 0:18`, `12秒到18秒`), bracketed
    (`[12.0, 18.5]`) or labelled (`start: 12, end: 18`). Pairs that bear a unit, a clock or a word such as `from` come
    before bare ones, which may count something else (`2-3 people, from 4 to 9 s`). Without any pair, moments count (`at 3 s`):
    spans of equal ends.
    """
    # One character at a time: putting a run of accents in order takes the square of its length.
    text = "".join(unicodedata.normalize("NFKC", character) for character in answer_part(text))
    text = re.sub("[−–—‒―〜∼]", "-", text.replace("～", "~"))
    certain, bare, taken = [], [], bytearray(len(text))
    for pattern in (_BETWEEN, _LABELLED, _CHINESE, _FROM, _BRACKETED, _RANGE):
        for match in pattern.finditer(text):
            place = slice(*match.span())
            if any(taken[place]):
                continue

            taken[place] = b"\1" * len(match.group())
            span = _span(*match.groups())
            marked = pattern not in (_RANGE, _BRACKETED) or any(_has_unit(part) for part in match.groups())
            (certain if marked else bare).append((match.start(), span))

    found = certain or bare
    if not found:
        moments = [match for match in _MOMENT.finditer(text) if _has_unit(match.group())]
        found = [(match.start(), _span(match.group(1), match.group(1))) for match in moments]

    return [span for _, span in sorted(found, key=lambda item: item[0])]


def read_spans(text: str, plan: "VideoPlan | None" = None) -> list[Span]:
    """The usable spans of a reply in seconds, in order.

    Args:
        text: The reply.
        plan: The video as the model saw it, for replies that count frames: number 0 is the first of `plan.frames`.

    Returns:
        Start and end of each. Decimals stay as written. Where frames are meant, the ends lie midway between the frames
        named and their neighbours (at the clip's ends where there is none); without `plan` such spans are left out, as
        are reversed ones and frames that the model did not see. Equal ends pass: a span shorter than the answer's
        rounding is written that way.
    """
    spans = (_usable(span, plan) for span in find_spans(text))
    return [span for span in spans if span is not None]


def read_span(text: str, plan: "VideoPlan | None" = None) -> Span | None:
    """The span that a reply answers with: the first one in it, for instance `From 1.0 to 2.5 seconds.` or `0:12 - 0:18`.

    Args:
        text: The reply.
        plan: See `read_spans`.

    Returns:
        Start and end in seconds; None if there is no span, or the first one cannot be used: a reply whose first span is
        reversed is not searched for a better one.
    """
    spans = find_spans(text)
    return _usable(spans[0], plan) if spans else None


def says_span(text: str, span_seconds: Span) -> bool:
    """Whether the span that `read_span` finds in an answer is this one, up to the rounding of its last digit."""
    written = read_span(text)
    if written is None:
        return False

    digits = _plain_digits(text, written)
    decimals = [_decimals(match.group()) for match in digits] if digits else [0, 0]
    return all(
        abs(there - meant) <= 0.5 * 10.0**-places + 1e-6
        for places, there, meant in zip(decimals, written, span_seconds)
    )


def rewrite_span(text: str, span_seconds: Span) -> str | None:
    """An answer with another span in its place, written with as many digits; None unless it stands in plain seconds."""
    written = read_span(text)
    digits = _plain_digits(text, written) if written else None
    if digits is None:
        return None

    for match, seconds in zip(reversed(digits), reversed(span_seconds)):
        text = text[: match.start()] + f"{seconds:.{_decimals(match.group())}f}" + text[match.end() :]

    return text


def _plain_digits(text: str, span: Span) -> tuple[re.Match, re.Match] | None:
    """Where a span's two numbers stand in a text, behind its reasoning; None where they are clocks or another unit."""
    begin = max((match.end() for match in _THOUGHT.finditer(text)), default=0)
    numbers = list(_PLAIN.finditer(text, begin))
    pairs = zip(numbers, numbers[1:])
    return next((pair for pair in pairs if tuple(float(match.group()) for match in pair) == span), None)


def _decimals(digits: str) -> int:
    return len(digits.partition(".")[2])


def _usable(span: WrittenSpan, plan: "VideoPlan | None") -> Span | None:
    if not span.start <= span.end < math.inf:
        return None

    if span.unit == "seconds":
        return (span.start, span.end)

    if plan is None or span.end >= len(plan.frames):
        return None

    return plan.timeline.span_seconds(sampled_span(plan.frames, int(span.start), int(span.end), plan.clip))


def _span(first: str, second: str) -> WrittenSpan:
    units = [_units(part) for part in (first, second)]
    if "frames" in units[0] + units[1]:
        start, end = (float(re.search(_NUMBER, part).group()) for part in (first, second))
        return WrittenSpan(start, end, "frames")

    # "1 to 2 minutes": a bare number takes the unit of the other.
    start = _seconds(first, default=units[1][0] if units[1] else "s")
    end = _seconds(second, default=units[0][0] if units[0] else "s")
    return WrittenSpan(start, end, "seconds")


def _units(part: str) -> list[str]:
    """Names of the units in a time, in order; a clock has none."""
    if re.search(r"frame|帧", part, re.IGNORECASE):
        return ["frames"]

    if ":" in part:
        return []

    words = filter(None, _PARTS.findall(part))
    return [next(name for name, pattern in _UNIT_WORDS.items() if re.fullmatch(pattern, word, re.I)) for word in words]


def _has_unit(part: str) -> bool:
    return ":" in part or bool(_units(part))


def _seconds(part: str, default: str) -> float:
    """Seconds of `12.5`, `mm:ss`, `hh:mm:ss`, `72 s` or `1 min 12 s`."""
    if ":" in part:
        seconds = 0.0
        for number in re.search(rf"(?:\d++:)+{_NUMBER}", part).group().split(":"):
            seconds = seconds * 60 + float(number)

        return seconds

    numbers = [float(number) for number in re.findall(_NUMBER, part)]
    units = _units(part) or [default]
    return sum(number * _SECONDS[unit] for number, unit in zip(numbers, units))
