"""Whatever a model or a user writes, reading it comes to an end: a pattern that backtracks would hold a whole server.

The limit is a net, not a clock: these texts take milliseconds, and took for ever where a pattern was not careful.
"""

import signal
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from spacevllm_plugin.data.plan import VideoPlan
from spacevllm_plugin.data.reply import CLOSING, OPENING, without_block
from spacevllm_plugin.data.span_parser import find_spans, read_span, read_spans, rewrite_span, says_span
from spacevllm_plugin.data.timeline import Timeline
from spacevllm_plugin.data.video import VideoRef
from spacevllm_plugin.evaluation.choice import Question, read_choice


LENGTH = 4_000
PLAN = VideoPlan(VideoRef("v.mp4"), 64, 48, Timeline(100, 10.0), (0, 100), [[frame] for frame in range(100)])
QUESTION = Question({"A": "The door.", "B": "A red box.", "C": "A box."}, "B")
# What the patterns look for, and what stands around it.
WORDS = (
    *(
        "from",
        "between",
        "and",
        "at",
        "about",
        "time",
        "t",
        "frame",
        "frames",
        "number",
        "no.",
        "to",
        "until",
        "up to",
    ),
    *("start", "begins", "onset", "end", "stops", "s", "sec", "ms", "min", "m", "h", "hours", "x", "1", "12", "0.5"),
    *("1:02", "9:", "3.", "#", "=", "~", "<", ">", "->", "--", "-", "–", "[", "]", "(", ")", ",", ";", ".", ":", "@"),
    *(
        "从",
        "在",
        "第",
        "约",
        "到",
        "至",
        "和",
        "开始",
        "结束",
        "秒",
        "分钟",
        "帧",
        "１",
        "①",
        "é",
        "\u0301",
        "\u0323",
        "ﷺ",
    ),
    *("<think>", "</think>", "<answer>", "</answer>", "\n", "A", "B", "C", "I", "answer", "is", "option", "or", "yes"),
    *("&", "答案", "选", "*", "'", '"'),
)
word = st.tuples(st.sampled_from(WORDS), st.sampled_from(["", " ", "  "])).map("".join)
words = st.lists(word, max_size=4).map("".join)

# No shrinking: each try would wait for the limit.
tries = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


@contextmanager
def comes_to_an_end(seconds=60):
    """Raise where the body hangs; `re` looks for signals while it searches."""

    def stop(*_):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_all(text):
    with comes_to_an_end():
        for span in read_spans(text, PLAN):
            assert 0 <= span[0] <= span[1] < float("inf")
            PLAN.timeline.span_frames(span, PLAN.clip)

        says_span(text, (1.0, 2.0))
        rewrite_span(text, (1.0, 2.0))
        assert read_choice(text, QUESTION) in (None, *QUESTION.options)


@tries
@given(before=words, repeated=words.filter(bool), after=words)
@example("", "time ", "x")
@example("from ", "about ", "x")
@example("1", " ", "x")
@example("start 1", " ", "x")
@example("", "1 min ", "x")
@example("A", ",,A", "!x")
@example("A", ", or,A", "!x")
@example("answer", " ", "x")
def test_any_text_is_read(before, repeated, after):
    read_all(before + repeated * (LENGTH // len(repeated)) + after)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 100_000 + " s",
        "1 to " + "9" * 100_000 + " s",
        "1 to 0." + "9" * 5_000 + " s",
        "frame 1 to frame " + "9" * 5_000,
        "9" * 5_000 + ":" + "9" * 5_000 + " - 1:00",
        "1" + " " * 100_000 + "x",
        "at 3 s" + "\u0301\u0323" * 150_000,
        "<think>" * 20_000,
        "<answer>" * 20_000,
    ],
    ids=lambda text: f"{text[:12]!r}…",
)
def test_long_runs_are_read(text):
    read_all(text)


def test_a_number_beyond_every_frame_is_the_last():
    """No float can hold its frame."""
    assert PLAN.timeline.span_frames(read_span("From 1 to " + "9" * 308 + " s")) == (10, 100)


def test_long_answers_keep_their_spans():
    assert find_spans("1 to 2 s, " * 2_000) == find_spans("1 to 2 s") * 2_000
    assert rewrite_span("1 to 2." + "0" * 400, (3.0, 4.0)) == "3 to 4." + "0" * 400


def test_any_message_is_searched_for_blocks():
    block = OPENING + '{"tubes": [{"kind": "image", "box": [1.0, 2.0, 3.0, 4.0]}]}' + CLOSING
    with comes_to_an_end():
        for repeated in (OPENING, OPENING + '{"tubes": ', OPENING + '{"tubes": }'):
            message = repeated * (2_000_000 // len(repeated))
            assert without_block(message + block) == message
