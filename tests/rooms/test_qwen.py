"""What the Qwen-VL rooms share, and Qwen3-VL's positions and pairs of frames."""

import copy
import re

import numpy as np
import pytest
import torch
from conftest import CLOSE, collate, prompt, run, user
from prompting import lines_of
from transformers.image_utils import SizeDict

from spacevllm_plugin.backbones.qwen3_vl.prompter import Qwen3VLPrompter
from spacevllm_plugin.data.video import read
from spacevllm_plugin.modeling.configuration import GroundingOptions


QWEN = ("qwen3_vl", "qwen3_vl_moe", "qwen2_5_vl", "qwen3_5")


def qwen(make_engine, backbone):
    return make_engine(backbone).model


@pytest.mark.parametrize("backbone", ["qwen3_vl", "qwen3_vl_moe"])
def test_qwen3_positions_are_the_stock_models(make_engine, prompts, backbone):
    engine = make_engine(backbone)
    items = [prompts(engine)[name] for name in ("video", "mixed", "text", "image")]
    for side in ("left", "right"):
        inputs = collate(engine, items, side)
        grids = {name: inputs[name] for name in ("image_grid_thw", "video_grid_thw")}
        given = {"attention_mask": inputs["attention_mask"], **grids}
        types = (inputs["input_ids"] == engine.model.config.image_token_id).long()
        types += 2 * (inputs["input_ids"] == engine.model.config.video_token_id)
        stock = engine.model.model.get_rope_index(inputs["input_ids"], mm_token_type_ids=types, **given)
        ours = engine.model.get_rope_index(inputs["input_ids"], staq_layout=inputs["staq_layout"], **given)
        assert torch.equal(stock[0], ours[0]) and torch.equal(stock[1], ours[1])


@pytest.mark.parametrize("backbone", QWEN)
def test_positions_given_by_a_collator_equal_those_computed_inside(make_engine, prompts, backbone):
    engine = make_engine(backbone)
    inputs = collate(engine, [prompts(engine)["mixed"], prompts(engine)["video"]], "right")
    grids = {name: inputs[name] for name in ("image_grid_thw", "video_grid_thw")}
    positions, _ = engine.model.get_rope_index(
        inputs["input_ids"], attention_mask=inputs["attention_mask"], staq_layout=inputs["staq_layout"], **grids
    )
    text = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    given = run(engine, inputs, position_ids=torch.cat([text[None], positions]))
    real = inputs["attention_mask"].bool()
    inside = run(engine, inputs)
    assert torch.allclose(given.boxes, inside.boxes, **CLOSE)
    assert torch.allclose(given.logits[real], inside.logits[real], atol=1e-4)


@pytest.mark.parametrize("backbone", QWEN)
def test_qwen_frames_are_those_of_its_own_processor_to_within_a_level(make_engine, files, backbone):
    """Pillow and torchvision round differently: one of 255 levels at most."""
    engine = make_engine(backbone, video_max_pixels=32 * 32)
    plan = prompt(engine, "<video>Where is it?", videos=[files["portrait"]]).videos[0]
    ours = engine.prompter.pictures(plan)
    frames = torch.from_numpy(np.stack([np.asarray(image) for image in read(plan.ref, plan.shown)]))
    own = engine.processor.video_processor
    size = SizeDict(height=ours.shape[2], width=ours.shape[3])
    theirs = own.resize(frames.permute(0, 3, 1, 2), size=size, resample=own.resample)
    assert size != SizeDict(height=plan.height, width=plan.width)
    assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("backbone", QWEN)
def test_pixel_limits_of_videos_and_images_are_their_own(make_engine, files, backbone):
    engine = make_engine(backbone, video_max_pixels=16 * 16, image_max_pixels=32 * 32)
    item = prompt(engine, "<video>a <image>b?", [files["image"]], [files["two"]])
    sizes = [(line.grid_h, line.grid_w) for line in lines_of(engine, item)]
    assert sizes == [(1, 1)] * (len(sizes) - 1) + [(2, 2)]


def test_qwen3_pairs_frames_at_their_mean_time(make_engine, files):
    """The released checkpoints merge two frames, other than the tiny one."""
    engine = make_engine("qwen3_vl")
    processor = copy.deepcopy(engine.processor)
    processor.video_processor.temporal_patch_size = 2
    prompter = Qwen3VLPrompter(processor, engine.prompter.options, GroundingOptions())
    _, (plan,) = prompter.plan([], [files["five"]])
    content = prompter.expand_messages([user("<video>Where?")], [], [plan])[0]["content"]
    assert re.findall(r"<([\d.]+) seconds>", content) == ["0.1", "0.6", "1.0"]
    ids = processor.tokenizer.encode(content)
    inputs = prompter.model_inputs([ids], [[]], [[plan]])
    assert inputs["video_grid_thw"].tolist() == [[3, 6, 6]]
    assert inputs["staq_layout"][:, 7].tolist() == [125, 625, 1000]


@pytest.mark.parametrize("backbone", QWEN)
def test_grids_follow_the_shape_of_the_picture(make_engine, files, backbone):
    engine = make_engine(backbone)
    item = prompt(engine, "<video>a <image>b?", [files["wide"]], [files["portrait"]])
    portrait, wide = (engine.prompter.grid(plan) for plan in (item.videos[0], item.images[0]))
    assert (portrait.rows, portrait.columns, portrait.stride) == (5, 3, 3)
    assert (wide.rows, wide.columns) == (3, 6)
