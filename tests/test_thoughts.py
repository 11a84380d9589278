"""Thoughts before an answer: neither shown, nor read for a span, nor touched where a span is rewritten."""

import pytest

from spacevllm_plugin.data.span_parser import answer_part, read_span, rewrite_span, says_span
from spacevllm_plugin.data.thoughts import spoken


WORDS = ("<think>\n", "\n</think>\n\n")


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ("From 1 to 2 s.", "From 1 to 2 s."),
        ("<think>\n\n</think>\n\nFrom 1 to 2 s.", "From 1 to 2 s."),
        ("<think>\nFrom 5 to 6?\n</think>\n\nFrom 1 to 2 s.\n", "From 1 to 2 s.\n"),
        ("\n<think>no line breaks</think>Yes", "Yes"),
        ("<think>\nfrom 1 to 2 s, or", ""),
        ("<think>\n\n</think>\n\n", ""),
        ("<thi", "<thi"),
        ("<this> is <think>it</think>", "<this> is <think>it</think>"),
        ("  ", "  "),
        ("", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_thought_is_left_out_however_the_reply_is_cut(reply, shown, size):
    pieces = [reply[i : i + size] for i in range(0, len(reply), size)]
    found = list(spoken(pieces, WORDS))
    assert "".join(found) == shown and "" not in found
    assert "".join(spoken(pieces, None)) == reply


def test_what_is_no_thought_comes_at_once():
    def pieces():
        yield from ["<think>\n", "no\n</think>", "\n\n", "Fr"]
        yield from ["om", " 1"]
        raise AssertionError("read too far")

    shown = spoken(pieces(), WORDS)
    assert [next(shown) for _ in range(3)] == ["Fr", "om", " 1"]


def test_a_span_is_read_behind_the_last_thought():
    for before in (
        "so it <think>was from 1 to 2?</think> or 3 to 4 s</think>\n",
        "A</thinking>",
        "<think>3 to 4 s</think>",
    ):
        assert read_span(f"{before}From 5.0 to 9.0 seconds.") == (5.0, 9.0)

    assert answer_part("from 1 to 2 s</think>") == ""


def test_a_span_is_rewritten_behind_the_thought():
    text = "<think>5.00 to 9.00, surely</think>From 5.0 to 9.0 seconds."
    assert rewrite_span(text, (1, 2)) == "<think>5.00 to 9.00, surely</think>From 1.0 to 2.0 seconds."
    assert says_span(text, (5.04, 9.0)) and not says_span(text, (5.06, 9.0))
