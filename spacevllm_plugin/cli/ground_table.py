"""A prediction for people to read."""

from ..data.plan import VideoPlan
from ..data.schema import PredictionRow
from ..data.tube import interpolate_boxes
from ..inference.reply_table import NO_SPAN, span_words


# Boxes shown of a tube, evenly over its span.
MOST_BOXES = 8
CORNERS = ("x1", "y1", "x2", "y2")


def describe(prediction: PredictionRow, medium: str, query: str, plan: VideoPlan | None) -> str:
    """The answer, its span and some of its boxes.

    Args:
        prediction: What the model answered.
        medium: The name of the video or image.
        query: The sentence.
        plan: The video as the model saw it; None for an image.
    """
    # With escapes: an answer may hold anything, also what a terminal would obey.
    facts = {"image" if plan is None else "video": medium, "query": query, "answer": repr(prediction.text)}
    if plan is None:
        (box,) = prediction.boxes
        return _aligned({**facts, "box": ", ".join(f"{name} {value:.1f}" for name, value in zip(CORNERS, box))})

    if prediction.span_frames is None:
        return _aligned({**facts, "span": NO_SPAN})

    span = f"{span_words(prediction.span_seconds, prediction.span_frames)} of {plan.timeline.num_frames}"
    return _aligned({**facts, "span": span}) + "\n\n" + _boxes(prediction, plan)


def _aligned(facts: dict[str, str]) -> str:
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def _boxes(prediction: PredictionRow, plan: VideoPlan) -> str:
    first, last = prediction.span_frames
    shown = min(MOST_BOXES, last - first)
    frames = [first + round(place * (last - 1 - first) / max(shown - 1, 1)) for place in range(shown)]
    boxes = interpolate_boxes(prediction.frames, prediction.boxes, frames)
    lines = [f"{'seconds':>8}{'frame':>8}" + "".join(f"{name:>8}" for name in CORNERS)]
    for frame, box in zip(frames, boxes):
        lines.append(f"{plan.timeline.seconds(frame):8.2f}{frame:8}" + "".join(f"{value:8.1f}" for value in box))

    if shown < last - first:
        lines.append(f"… {last - first - shown} more frames; --json has the boxes of all frames that the model saw")

    return "\n".join(lines)
