"""The parts of the page that Gradio has no component for, as HTML; whatever a visitor wrote is escaped here."""

import base64
from collections.abc import Iterable
from html import escape
from io import BytesIO

from ..data.shortened import shortened
from ..data.video import read, read_image
from .answers import TRUTH_COLOR, Answered, Box
from .medium import Medium


FRAME_SIDE = 1280  # pixels of the longer side of a frame on the page; a small one is sent as it is
PIXELATED_BELOW = 128  # pixels: a picture this small is shown with its pixels, not blurred
MOST_SAID = 90  # letters of an answer that the table shows
CORRECT_HEAD = "<h3 class='sv-h'>Put it right</h3>"
EMPTY = "<div class='sv-empty'>The video with its boxes, and when each sentence holds, will be here.</div>"


def head(model: str) -> str:
    """The page's title."""
    return (
        "<div class='sv-head'><h1>When and where?</h1><p>Say what you look for: the model finds when it happens, and "
        f"draws where. Model: <code>{escape(model)}</code></p></div>"
    )


def notice(text: str, kind: str = "info") -> str:
    """One line for the visitor; `kind` is info, good or bad."""
    role = "alert" if kind == "bad" else "status"
    return f'<p class="sv-notice sv-{kind}" role="{role}">{escape(text)}</p>' if text else ""


def about(medium: Medium) -> str:
    """What was uploaded, in one line."""
    size = f"{medium.width} × {medium.height} pixels"
    if medium.timeline is None:
        return f"{medium.name}: image, {size}"

    seconds = medium.timeline.seconds(medium.num_frames)
    return f"{medium.name}: {seconds:.1f} seconds, {medium.num_frames} frames, {size}"


def table(answered: list[Answered], medium: Medium) -> str:
    """A row for each sentence."""
    scored = any(one.scores for one in answered)
    spans = medium.timeline is not None
    heads = ["Sentence", *(("From", "To") if spans else ("Box",)), "Found", "Status", *(("Truth",) if scored else ())]
    rows = [_cells(number, one, spans, scored) for number, one in enumerate(answered, start=1)]
    head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td data-name='{name}'>{cell}</td>" for name, cell in zip(heads, row)) + "</tr>"
        for row in rows
    )
    return f"<table class='sv-table'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(number: int, one: Answered, spans: bool, scored: bool) -> Iterable[str]:
    yield f"{_badge(number, one.color)} {escape(one.query)}"
    if spans:
        yield from (f"{second:.2f} s" for second in one.prediction.span_seconds or ()) if one.found else ("–", "–")
    else:
        yield ", ".join(f"{value:.0f}" for value in one.prediction.boxes[0]) if one.found else "–"

    yield f"<span class='sv-{'yes' if one.found else 'no'}'>{'yes' if one.found else 'no'}</span>"
    yield f"{escape(one.status)} <q class='sv-said'>{escape(shortened(one.prediction.text, MOST_SAID))}</q>"
    if scored:
        yield " ".join(f"<span>{name} {value:.2f}</span>" for name, value in one.scores.items()) or "–"


def _badge(number: int, color: str) -> str:
    return f"<span class='sv-badge' style='background:{color}'>{number}</span>"


def timeline(answered: list[Answered], medium: Medium) -> str:
    """When each sentence holds: a bar for the answer, a thinner one for the truth, a dashed one for a correction."""
    if medium.timeline is None or not answered:
        return ""

    total = medium.timeline.seconds(medium.num_frames)
    tracks = []
    for number, one in enumerate(answered, start=1):
        bars = [_bar(one.prediction.span_seconds if one.found else None, total, "answer", one.color)]
        if one.truth is not None:
            bars.append(_bar(one.truth.target.span_seconds, total, "truth", TRUTH_COLOR))

        bars.append(_bar(one.span_seconds, total, "drawn", one.color))
        bars += [_tick(medium.timeline.seconds(frame), total, one.color) for frame in sorted(one.drawn)]
        missing = "" if one.found else f"<span class='sv-absent'>{escape(one.status)}</span>"
        tracks.append(
            f"<div class='sv-row'><div class='sv-name'>{_badge(number, one.color)} {escape(one.query)}</div>"
            f"<div class='sv-track'>{''.join(bars)}{missing}<i class='sv-playhead'></i></div></div>"
        )

    legend = "<span class='sv-key'><i class='sv-truth'></i>truth</span>" if any(o.truth for o in answered) else ""
    scale = f"<div class='sv-scale'><span>0 s</span>{legend}<span>{total:.1f} s</span></div>"
    return f"<div class='sv-timeline' data-seconds='{total:.3f}'>{''.join(tracks)}{scale}</div>"


def _bar(span: tuple[float, float] | None, total: float, kind: str, color: str) -> str:
    if span is None:
        return ""

    start, end = (min(max(100 * second / total, 0), 100) for second in span)
    title = f"{kind}: {span[0]:.2f} to {span[1]:.2f} s"
    place = f"left:{start:.2f}%;width:{max(end - start, 0.4):.2f}%;--color:{color}"
    return f"<i class='sv-bar sv-{kind}' style='{place}' title='{title}'></i>"


def _tick(second: float, total: float, color: str) -> str:
    return f"<i class='sv-tick' style='left:{100 * second / total:.2f}%;--color:{color}' title='box drawn here'></i>"


def frame(medium: Medium, answered: list[Answered], number: int, chosen: int | None = None) -> str:
    """One native frame with its boxes, on which a box can be drawn where a sentence is chosen.

    Args:
        medium: The video or image.
        answered: What boxes to show.
        number: The native frame.
        chosen: The sentence that is being corrected; None where nothing can be.
    """
    picture = read_image(medium.path) if medium.timeline is None else read(medium.ref, [number])[0]
    picture.thumbnail((FRAME_SIDE, FRAME_SIDE))
    file = BytesIO()
    picture.save(file, "JPEG", quality=88)
    source = base64.b64encode(file.getvalue()).decode()

    shapes = []
    for place, one in enumerate(answered):
        for kind, box in one.boxes_at(number).items():
            shapes.append(_rectangle(box, kind, TRUTH_COLOR if kind == "truth" else one.color, place + 1))

    editable = f" data-color='{answered[chosen].color}'" if chosen is not None else ""
    small = " sv-small" if max(medium.width, medium.height) <= PIXELATED_BELOW else ""
    when = f" · {medium.timeline.seconds(number):.2f} s" if medium.timeline else ""
    caption = f"frame {number} of {medium.num_frames}{when}" if medium.timeline else "image"
    size = f"{medium.width} {medium.height}"
    return (
        f"<figure class='sv-frame{small}' style='--ratio:{medium.width / medium.height:.4f}'>"
        f"<div class='sv-stage'><img alt='{caption}' src='data:image/jpeg;base64,{source}'>"
        f"<svg viewBox='0 0 {size}' preserveAspectRatio='none'{editable}>{''.join(shapes)}</svg></div>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _rectangle(box: Box, kind: str, color: str, number: int) -> str:
    x1, y1, x2, y2 = box
    place = f"x='{x1:.2f}' y='{y1:.2f}' width='{max(x2 - x1, 0):.2f}' height='{max(y2 - y1, 0):.2f}'"
    return f"<rect class='sv-{kind}' {place} stroke='{color}'><title>{number}: {kind}</title></rect>"
