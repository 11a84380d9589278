"""What holds for any tubes and any predictions."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scoring import answer, stvg

from spacevllm_plugin.evaluation import Rules, evaluate
from spacevllm_plugin.evaluation.protocols import PROTOCOLS


FRAMES = 30
STVG = [name for name, tasks in PROTOCOLS.items() if "stvg" in tasks]
SCORES = ("tIoU", "vIoU", "sIoU")

bounded = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
spans = st.lists(st.integers(0, FRAMES), min_size=2, max_size=2, unique=True).map(lambda ends: tuple(sorted(ends)))
eighths = st.integers(0, 400).map(lambda value: value / 8)


@st.composite
def boxes(draw):
    x, y = draw(eighths), draw(eighths) / 2
    return (x, y, x + 1 + draw(eighths), y + 1 + draw(eighths) / 2)


@st.composite
def tubes(draw):
    """Frames that carry a box, at most six of them, and their boxes."""
    frames = sorted(draw(st.sets(st.integers(0, FRAMES - 1), min_size=1, max_size=6)))
    return frames, [draw(boxes()) for _ in frames]


@st.composite
def rows(draw, id="a"):
    frames, corners = draw(tubes())
    return stvg(draw(spans), frames, [_inside(box) for box in corners], id=id, num_frames=FRAMES)


@st.composite
def predictions(draw, id="a"):
    """Any span, reversed and empty ones included, and any boxes, flipped ones included; or nothing that can be read."""
    frames, corners = draw(tubes())
    if draw(st.booleans()):
        corners = [box[2:] + box[:2] for box in corners]

    span = draw(st.none() | st.tuples(st.integers(0, FRAMES), st.integers(0, FRAMES)))
    return answer(span, frames, corners, id=id, status="ok" if span else "unreadable")


@st.composite
def sets(draw):
    """Up to four items, some without a prediction."""
    count = draw(st.integers(1, 4))
    truths = [draw(rows(id=str(i))) for i in range(count)]
    return truths, [draw(predictions(id=str(i))) for i in range(count) if draw(st.booleans())]


def _inside(box):
    """A true box has to lie in the 100 x 50 frame."""
    x1, y1, x2, y2 = box
    return (x1 / 2, y1 / 2, min(x2 / 2, 100), min(y2 / 2, 50))


def figures(result):
    return {name: value for name, value in result.report()["groups"]["all"].items() if name != "n"}


@pytest.mark.parametrize("protocol", STVG)
@bounded
@given(data=sets(), fill=st.sampled_from(["linear", "none"]), shift=st.sampled_from([0, -1]))
def test_scores_are_fractions_or_none(protocol, data, fill, shift):
    result = evaluate("stvg", *data, protocol, fill, Rules(gt_end_shift=shift))
    for item in result.items:
        for name in SCORES:
            assert item[name] is None or 0 <= item[name] <= 1 + 1e-12
            assert item[name] is not None or item["error"] or protocol == "hcstvg"

    group = result.report()["groups"]["all"]
    for name, value in figures(result).items():
        if value is None:
            assert "error" in group or name in group["nulls"]
        elif name not in ("error", "nulls"):
            assert 0 <= value <= 1 + 1e-12


@pytest.mark.parametrize("protocol", STVG)
@bounded
@given(data=sets(), seed=st.randoms(use_true_random=False))
def test_order_changes_nothing(protocol, data, seed):
    truths, answers = data
    one = evaluate("stvg", truths, answers, protocol)
    truths, answers = list(truths), list(answers)
    seed.shuffle(truths)
    seed.shuffle(answers)
    other = evaluate("stvg", truths, answers, protocol)
    assert other.counts == one.counts and sorted(other.warnings) == sorted(one.warnings)
    assert {item["id"]: item for item in other.items} == {item["id"]: item for item in one.items}
    numbers = {name: value for name, value in figures(one).items() if isinstance(value, float)}
    assert {name: figures(other)[name] for name in numbers} == pytest.approx(numbers)


@bounded
@given(row=rows())
def test_the_truth_scores_1_under_native(row):
    target = row.target
    prediction = answer(target.span_frames, target.frames, target.boxes)
    (item,) = evaluate("stvg", [row], [prediction]).items
    assert [item[name] for name in SCORES] == pytest.approx([1, 1, 1])
    prediction = answer(None, target.frames, target.boxes, span_seconds=target.span_seconds)
    assert evaluate("stvg", [row], [prediction]).items[0]["tIoU"] == 1


@pytest.mark.parametrize("protocol", ["native", "hcstvg", "tastvg"])
@bounded
@given(row=rows(), prediction=predictions(), fill=st.sampled_from(["linear", "none"]), shift=st.integers(1, 500))
def test_shifting_both_by_the_same_frames_changes_nothing(protocol, row, prediction, fill, shift):
    before = evaluate("stvg", [row], [prediction], protocol, fill).items[0]
    target, media = row.target, row.media
    moved = stvg(
        tuple(frame + shift for frame in target.span_frames),
        [frame + shift for frame in target.frames],
        target.boxes,
        num_frames=FRAMES + shift,
        clip=(shift, FRAMES + shift),
        fps=media.fps,
    )
    span = prediction.span_frames and tuple(frame + shift for frame in prediction.span_frames)
    frames = [frame + shift for frame in prediction.frames]
    after = evaluate(
        "stvg", [moved], [prediction.model_copy(update={"span_frames": span, "frames": frames})], protocol, fill
    )
    for name in SCORES:
        a, b = before[name], after.items[0][name]
        assert (a is None and b is None) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
