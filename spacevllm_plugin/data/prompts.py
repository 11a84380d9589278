"""What the model is asked and what it answers: the only place that phrases them."""

import hashlib


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

TIME_SENTENCE = (
    "The video lasts for {duration} seconds, and {count} frames are uniformly sampled from it. "
    "These frames are located at {times}. Please answer the following questions related to this video."
)

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

# What is not there has no target: a row of task qa says it.
NOT_THERE = "It is not there."


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


def time_sentence(duration: float, seconds: list[float]) -> str:
    """LLaVA-Video's own sentence about the frames and their times, for backbones without native timestamps."""
    times = ",".join(f"{moment:.2f}s" for moment in seconds)
    return TIME_SENTENCE.format(duration=f"{duration:.2f}", count=len(seconds), times=times)
