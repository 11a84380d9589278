"""Images and videos in any order in one prompt: training, prediction and chat agree whose query is whose."""

import json

import pytest
import torch
from conftest import user, write_image, write_video

from spacevllm_plugin.data.schema import AnnotationRow
from spacevllm_plugin.data.targets import query_targets
from spacevllm_plugin.inference.grounding import make_prediction
from spacevllm_plugin.integration.chat import TubeReply
from spacevllm_plugin.integration.dataset import GroundingEncoding


CONTENTS = (
    "<image>First this, then <video>that.",
    "<video>First this, then <image>that.",
    "<image><video>Two<image>of<video>each.",
)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    images = [write_image(folder / f"{i}.png", i, width=48 + 48 * i) for i in range(2)]
    return images, [write_video(folder / f"{i}.mp4", 8 + 4 * i, first=10 * i) for i in range(2)]


def row_of(task, content, images, videos):
    frames = [0, 7] if task == "stvg" else [0]
    target = {"frames": frames, "boxes": [[4, 4, 20, 20]] * len(frames)}
    facts = {"width": 48, "height": 48}
    if task == "stvg":
        target |= {"span_frames": [0, 8], "span_seconds": [0, 2]}
        facts |= {"fps": 4, "num_frames": 8}

    messages = [user(content), {"role": "assistant", "content": "From 0.0 to 2.0 seconds."}]
    found = {"id": "x", "task": task, "messages": messages, "media": facts, "target": target}
    return AnnotationRow.model_validate({**found, "images": images, "videos": videos})


@pytest.mark.parametrize("task", ["stvg", "rec"])
@pytest.mark.parametrize("content", CONTENTS)
def test_everyone_takes_the_same_queries_for_the_target(engine, media, task, content):
    images, videos = (paths[: content.count(tag)] for paths, tag in zip(media, ("<image>", "<video>")))
    row = row_of(task, content, images, videos)
    item = engine.row_item(row, images, videos)
    layout = engine.prompter.model_inputs([item.token_ids], [item.images], [item.videos])["staq_layout"]
    # What the model is told about its queries: the first image's one, or as many as the first video has.
    of_videos = layout[:, 0] >= 0
    wanted = torch.nonzero(of_videos if task == "stvg" else ~of_videos).flatten()
    wanted = wanted[: len(item.videos[0].frames) if task == "stvg" else 1].tolist()

    targets = GroundingEncoding._in_order(
        {"_prompt": [user(content)], "_response": []}, *query_targets(row, len(images), item.videos)
    )
    finite = torch.tensor(targets).view(-1, 4).isfinite().all(dim=-1)
    assert len(finite) == len(layout)
    assert torch.nonzero(finite).flatten().tolist() == wanted

    # Every query gives a box of its own width, which says whose it is.
    numbers = torch.arange(len(layout)).float()
    boxes = torch.stack([numbers * 0 + 0.5, numbers * 0 + 0.5, (numbers + 1) / 48, numbers * 0 + 0.1], dim=-1)
    prediction = make_prediction(item, "From 0.0 to 2.0 seconds.", boxes)
    assert [round(x2 - x1) - 1 for x1, _, x2, _ in prediction.boxes] == wanted

    reply = TubeReply(engine.prompter, [user(content)], images, videos)
    reply.sink.append(boxes)
    tubes = json.loads(reply.block("").partition("```json\n")[2].partition("\n```")[0])["tubes"]
    tube = next(tube for tube in tubes if tube["kind"] == ("video" if task == "stvg" else "image"))
    shown = tube["boxes"] if task == "stvg" else [tube["box"]]
    assert [round(x2 - x1) - 1 for x1, _, x2, _ in shown] == wanted


@pytest.mark.parametrize("task", ["stvg", "rec"])
def test_without_a_recorded_size_a_box_is_in_pixels_of_its_own_medium(make_engine, media, task):
    """As in `spacevllm-cli ground`; the second image is wider than the first video."""
    engine = make_engine("qwen3_vl")
    item = engine.item("x", task, [user("<video>This<image>and that.")], media[0][1:], media[1][:1])
    prediction = make_prediction(item, "", torch.tensor([[0.5, 0.5, 1.0, 1.0]] * (len(item.videos[0].frames) + 1)))
    assert {box[2] for box in prediction.boxes} == {48 if task == "stvg" else 96}
