"""What a prompt says, read back from its tokens and its layout."""

import re

from conftest import staq_id, text_of

from spacevllm_plugin.data.schema import AnnotationRow, Media, Message, Target
from spacevllm_plugin.modeling.layout import Layout


def lines_of(engine, item):
    inputs = engine.prompter.model_inputs([item.token_ids], [item.images], [item.videos])
    return [Layout(*line) for line in inputs["staq_layout"].tolist()]


def queries_of(engine, item):
    return [i for i, token in enumerate(item.token_ids) if token == staq_id(engine)]


def captions(engine, item):
    """The caption of every query, as text."""
    texts = []
    for position, line in zip(queries_of(engine, item), lines_of(engine, item), strict=True):
        start = position + line.caption_offset
        texts.append(text_of(engine, item.token_ids[start : start + line.caption_length]))

    return texts


def times_in(engine, item):
    """Frame times as the prompt states them, one list for each video."""
    text = text_of(engine, item.token_ids)
    if engine.prompter.video_suffix(item.videos[0]):
        return [stated.split(",") for stated in re.findall(r"located at ([\d.,s]*)\.", text)]

    return [re.findall(r"<([\d.]+) seconds>", text)]


def is_pairwise(engine):
    return engine.prompter.temporal_patch_size == 2


def stvg_row(frames, boxes, span, videos=1, images=0, width=48, height=80):
    content = "<image>" * images + "<video>" * videos + "Where?"
    return AnnotationRow(
        id="a",
        task="stvg",
        messages=[Message(role="user", content=content), Message(role="assistant", content="From 0 to 1 seconds.")],
        videos=["v.mp4"] * videos,
        images=["i.png"] * images or None,
        media=Media(width=width, height=height, fps=4.0, num_frames=5),
        target=Target(span_frames=span, span_seconds=(span[0] / 4, span[1] / 4), frames=frames, boxes=boxes),
    )
