"""Reading a span out of what a model wrote."""

import pytest

from spacevllm_plugin.data.plan import VideoPlan
from spacevllm_plugin.data.span_parser import find_spans, read_span, read_spans
from spacevllm_plugin.data.timeline import Timeline, sampled_span
from spacevllm_plugin.data.video import VideoRef


@pytest.mark.parametrize(
    "text, span",
    [
        # ranges in seconds; decimals stay
        ("From 12.0 to 18.5 seconds.", (12.0, 18.5)),
        ("from 1 to 2.25 sec", (1.0, 2.25)),
        ("12.0 - 18.5", (12.0, 18.5)),
        ("12.0s–18.5s", (12.0, 18.5)),
        ("12.0s → 18.5s", (12.0, 18.5)),
        ("It happens between 12 and 18.04 seconds.", (12.0, 18.04)),
        ("The given query happens in 24.3 - 30.4 seconds.", (24.3, 30.4)),
        ("The event starts at 12.0 s and ends at 18.5 s.", (12.0, 18.5)),
        ("start time: 3.2s\nend time: 4.4s", (3.2, 4.4)),
        ('{"start": 12.0, "end": 18.5}', (12.0, 18.5)),
        ('```json\n{"start_time": 1.5, "end_time": 2}\n```', (1.5, 2.0)),
        ("[12.0, 18.5]", (12.0, 18.5)),
        ("[12.0,18.5]", (12.0, 18.5)),
        ("Time:12-18s", (12.0, 18.0)),
        ("The span is (3.5, 9) seconds.", (3.5, 9.0)),
        ("from t=3 to t=5", (3.0, 5.0)),
        ("From 3.0 to 3.0 seconds.", (3.0, 3.0)),
        ("From 0.0 until 5.5 seconds, the man in red opens the door.", (0.0, 5.5)),
        ("1200 ms to 1800 ms", (1.2, 1.8)),
        # a moment
        ("at 3 s", (3.0, 3.0)),
        ("It occurs around 15 seconds.", (15.0, 15.0)),
        ("The ball is kicked at 0:12.", (12.0, 12.0)),
        # clocks and minutes
        ("0:12 to 0:18", (12.0, 18.0)),
        ("00:01:05 - 00:01:10.5", (65.0, 70.5)),
        ("1:02:03 - 1:02:10", (3723.0, 3730.0)),
        ("From 01:12 to 01:30, she dances.", (72.0, 90.0)),
        ("From 1 to 2 minutes", (60.0, 120.0)),
        ("1 min 5 s to 1 min 20 s", (65.0, 80.0)),
        ("1m5s - 1m20s", (65.0, 80.0)),
        ("from 50 seconds to 1.5 minutes", (50.0, 90.0)),
        # Chinese
        ("从12秒到18.5秒", (12.0, 18.5)),
        ("第12秒至第18秒", (12.0, 18.0)),
        ("12秒～18秒", (12.0, 18.0)),
        ("１２．５秒到１８秒", (12.5, 18.0)),
        ("1分12秒到1分30秒", (72.0, 90.0)),
        ("开始时间：12秒，结束时间：18秒", (12.0, 18.0)),
        ("12秒开始，18秒结束", (12.0, 18.0)),
        ("在12秒和18秒之间", (12.0, 18.0)),
        ("在3秒", (3.0, 3.0)),
        ("时间：3.0-5.0秒", (3.0, 5.0)),
        ("视频中，3秒到5秒", (3.0, 5.0)),
        # several: the first counts, but a pair that bears a unit or a word before one that may count something else
        ("2.5s-3s, then 5s-6s", (2.5, 3.0)),
        ("[[1.0, 2.0], [5.0, 7.0]]", (1.0, 2.0)),
        ("2-3 people walk in from 4 to 9 s.", (4.0, 9.0)),
        ("The man (age 20-30) opens the door from 4.5s to 6s", (4.5, 6.0)),
        # thinking, then an answer
        ("<think>Perhaps from 1 to 2 s?</think>From 5 to 9 seconds.", (5.0, 9.0)),
        ("Perhaps from 1 to 2 s?</think> From 5 to 9 seconds.", (5.0, 9.0)),
        ("<think>1 to 2 s</think><answer>3 to 4 seconds</answer>", (3.0, 4.0)),
        ("<think>from 1 to 2 s, or", None),
        # none, reversed, not to be understood
        ("", None),
        ("No such event happens in this video.", None),
        ("From 18 to 12 seconds.", None),
        ("From 18 to 12 seconds, then from 20 to 25 seconds.", None),
        ("From -1.0 to 2.0 seconds.", None),
        ("12,5 to 18,0 seconds", None),
        ("1,200-1,300 s", None),
        ("The box is [120, 45, 300, 210].", None),
        ("There are 3 people.", None),
        ("From 3.0 seconds until the end.", None),
        ("9" * 400 + " to " + "9" * 401, None),
        ("From frame 2 to frame 3", None),  # which frames those are is not known here
    ],
)
def test_read_span(text, span):
    assert read_span(text) == (pytest.approx(span) if span else None)


def test_all_spans_of_an_answer():
    assert read_spans("2.5s-3s, then 9s-6s and 5s-6s") == [(2.5, 3.0), (5.0, 6.0)]
    assert read_spans("nothing") == []
    assert [span.unit for span in find_spans("frames 3-7")] == ["frames"]


def plan(frames, clip, fps=10.0, num_frames=100):
    return VideoPlan(VideoRef("v.mp4"), 64, 48, Timeline(num_frames, fps), clip, [[frame] for frame in frames])


# Sampled: 0, 10, 20, 30, 39 of a clip of 40. Midways: 5, 15, 25, and 34.5 -> 35.
@pytest.mark.parametrize(
    "text, span",
    [
        ("From frame 1 to frame 2", (0.5, 2.5)),
        ("frames 1-2", (0.5, 2.5)),
        ("第1帧到第3帧", (0.5, 3.5)),
        ("frame 2 to 2", (1.5, 2.5)),
        ("Frames 0 to 4", (0.0, 4.0)),  # to the clip's ends
        ("frames 3 to 5", None),  # there is no frame number 5
        ("frames 3 to 1", None),
        ("From 1.0 to 2.0 seconds", (1.0, 2.0)),  # a span in seconds needs no rounding to frames
    ],
)
def test_frames_are_cut_midway_to_their_neighbours(text, span):
    assert read_span(text, plan([0, 10, 20, 30, 39], (0, 40))) == span


def test_sampled_span():
    assert sampled_span([4, 8, 13], 0, 0, (2, 20)) == (2, 6)
    assert sampled_span([4, 8, 13], 1, 2, (2, 20)) == (6, 20)
    # Frames 8 and 13: 10 is nearer to 8, 11 to 13.
    assert sampled_span([4, 8, 13], 1, 1, (2, 20)) == (6, 11)
    # Runs that follow each other neither overlap nor leave a gap.
    assert sampled_span([4, 8, 13], 2, 2)[0] == 11
    assert sampled_span([4, 8, 13], 0, 2) == (4, 14)
