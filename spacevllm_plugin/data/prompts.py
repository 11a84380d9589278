"""What the model is asked, what it answers, and how a span is read back: the only place that phrases them."""

import hashlib
import math
import re


# The first of each list is what `ground` asks, what the synthetic set and the tiny tokenizer know. `interrogative`: the
# sentence is itself a question ("what does the man hold?").
INSTRUCTIONS = {
    "stvg": (
        'When and where does this happen: "{query}"? Answer with the time.',
        'Find "{query}" in the video. Say from when to when.',
        'Locate this in time and space: "{query}". Answer with the time.',
        'During which part of the video, and where, can "{query}" be seen?',
        'Track what is described: "{query}". Give the start and the end in seconds.',
    ),
    "stvg/interrogative": (
        'When and where does the answer to this question appear: "{query}"? Answer with the time.',
        'Question: "{query}" Find in the video what it asks for. Say from when to when.',
        'Locate what answers "{query}" in time and space. Answer with the time.',
        'During which part of the video, and where, can the answer to "{query}" be seen?',
        'Track what this question asks for: "{query}" Give the start and the end in seconds.',
    ),
    "vtg": (
        'When does this happen: "{query}"? Answer with the time.',
        'Find "{query}" in the video. Say from when to when.',
        'Locate this in time: "{query}". Answer with the time.',
        'During which part of the video does this happen: "{query}"?',
        'Give the start and the end, in seconds, of "{query}".',
    ),
    "rec": (
        'Where is this: "{query}"?',
        'Find "{query}" in the image.',
        'Locate what this describes: "{query}".',
        'Point out "{query}".',
        'Which region of the image shows "{query}"?',
    ),
}

_SPAN_ANSWERS = (
    "From {start:.1f} to {end:.1f} seconds.",
    "It happens from {start:.1f} to {end:.1f} seconds.",
    "From {start:.1f} s to {end:.1f} s.",
    "From {start:.1f} until {end:.1f} seconds.",
    "It starts and ends here: {start:.1f} - {end:.1f} seconds.",
)

ANSWERS = {
    "stvg": _SPAN_ANSWERS,
    "vtg": _SPAN_ANSWERS,
    "rec": ("Here it is.", "It is here.", "This is the one.", "Found it.", "It is in this region."),
}

# The look-behind keeps a match from starting inside a number or after its minus sign.
_CLOCK = r"(?<![\d.:-])((?:\d+:){0,2}\d+(?:\.\d+)?)"
_UNIT = r"\s*(?:s|secs?|seconds?)?\s*"
_SPAN = re.compile(rf"{_CLOCK}{_UNIT}(?:-|–|—|to|until)\s*((?:\d+:){{0,2}}\d+(?:\.\d+)?)", re.IGNORECASE)


def instruction(task: str, query: str, key: str | None = None, interrogative: bool = False) -> str:
    """The question for one sentence, without the `<video>` or `<image>` tag.

    Args:
        task: `stvg`, `vtg` or `rec`.
        query: The sentence.
        key: A row's id: it decides the phrasing, the same one in every run. None takes the first.
        interrogative: The sentence is itself a question (stvg only).
    """
    phrasings = INSTRUCTIONS[f"{task}/interrogative" if interrogative else task]
    return _choose(phrasings, key, "question").format(query=query)


def answer(task: str, span_seconds: tuple[float, float] | None = None, key: str | None = None) -> str:
    """The answer to train on; `rec` needs no span. `key` as in `instruction`."""
    start, end = span_seconds or (0.0, 0.0)
    return _choose(ANSWERS[task], key, "answer").format(start=start, end=end)


def _choose(phrasings: tuple[str, ...], key: str | None, part: str) -> str:
    """One phrasing by a hash that no process or version changes; question and answer are drawn apart."""
    if key is None:
        return phrasings[0]

    digest = hashlib.blake2b(f"{part}:{key}".encode(), digest_size=8).digest()
    return phrasings[int.from_bytes(digest) % len(phrasings)]


def read_span(text: str) -> tuple[float, float] | None:
    """The first span in an answer: seconds or (hh:)mm:ss, for instance `From 1.0 to 2.5 seconds.` or `0:12 - 0:18`.

    Returns:
        Start and end in seconds; None if there is no span or it is reversed. Equal ends pass: a span shorter than
        the answer's rounding is written that way.
    """
    match = _SPAN.search(text)
    if match is None:
        return None

    start, end = (_seconds(clock) for clock in match.groups())
    return (start, end) if start <= end < math.inf else None


def says_span(text: str, span_seconds: tuple[float, float]) -> bool:
    """Whether the span that `read_span` finds in an answer is this one, up to the rounding of its last digit."""
    written = read_span(text)
    if written is None:
        return False

    clocks = _SPAN.search(text).groups()
    return all(
        abs(there - meant) <= 0.5 * 10.0 ** -_decimals(clock) + 1e-6
        for clock, there, meant in zip(clocks, written, span_seconds)
    )


def rewrite_span(text: str, span_seconds: tuple[float, float]) -> str | None:
    """An answer with another span in its place, written with as many digits; None where it is written as mm:ss."""
    match = _SPAN.search(text)
    if ":" in match[1] + match[2]:
        return None

    for group, seconds in ((2, span_seconds[1]), (1, span_seconds[0])):
        clock = f"{seconds:.{_decimals(match[group])}f}"
        text = text[: match.start(group)] + clock + text[match.end(group) :]

    return text


def _decimals(clock: str) -> int:
    return len(clock.partition(".")[2])


def _seconds(clock: str) -> float:
    """Seconds of `12.5`, `mm:ss` or `hh:mm:ss`."""
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)

    return seconds


def time_sentence(duration: float, seconds: list[float]) -> str:
    """LLaVA-Video's own sentence about the frames and their times, for backbones without native timestamps."""
    times = ",".join(f"{moment:.2f}s" for moment in seconds)
    return (
        f"The video lasts for {duration:.2f} seconds, and {len(seconds)} frames are uniformly sampled from it. "
        f"These frames are located at {times}. Please answer the following questions related to this video."
    )
