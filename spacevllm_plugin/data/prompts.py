"""What the model is asked and what it answers: the only place that phrases them."""

INSTRUCTIONS = {
    "stvg": 'When and where does this happen: "{query}"? Answer with the time.',
    "vtg": 'When does this happen: "{query}"? Answer with the time.',
    "rec": 'Where is this: "{query}"?',
}

ANSWERS = {
    "stvg": "From {start:.1f} to {end:.1f} seconds.",
    "vtg": "From {start:.1f} to {end:.1f} seconds.",
    "rec": "Here it is.",
}


def instruction(task: str, query: str) -> str:
    """The question for one sentence, without the `<video>` or `<image>` tag."""
    return INSTRUCTIONS[task].format(query=query)


def answer(task: str, span_seconds: tuple[float, float] | None = None) -> str:
    """The answer to train on; `rec` needs no span."""
    start, end = span_seconds or (0.0, 0.0)
    return ANSWERS[task].format(start=start, end=end)


def time_sentence(duration: float, seconds: list[float]) -> str:
    """LLaVA-Video's own sentence about the frames and their times, for backbones without native timestamps."""
    times = ",".join(f"{moment:.2f}s" for moment in seconds)
    return (
        f"The video lasts for {duration:.2f} seconds, and {len(seconds)} frames are uniformly sampled from it. "
        f"These frames are located at {times}. Please answer the following questions related to this video."
    )
