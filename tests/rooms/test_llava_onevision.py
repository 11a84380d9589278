"""LLaVA's frames and checkpoints."""

import copy
import shutil

import numpy as np
import pytest
import torch
from conftest import CLOSE, collate, picture, prompt, run, text_of
from prompting import lines_of
from safetensors.torch import save_file

from spacevllm_plugin.data.video import read
from spacevllm_plugin.modeling.configuration import GroundingOptions
from spacevllm_plugin.modeling.layout import Layout


def features_of(engine, item):
    """What `embed_visual` puts in the places of the visual tokens."""

    model, inputs = engine.model, collate(engine, [item])
    embeds = torch.zeros(1, inputs["input_ids"].shape[1], model.config.get_text_config().hidden_size)
    with torch.no_grad():
        embeds, _ = model.embed_visual(
            inputs["input_ids"], embeds, Layout.unpack(inputs["staq_layout"]), pixel_values=inputs["pixel_values"]
        )

    ids = (model.config.image_token_id, model.config.video_token_id)
    return embeds[0][torch.isin(inputs["input_ids"][0], torch.tensor(ids))], inputs["pixel_values"]


def test_llava_frames_are_the_stock_models(make_engine, media):
    engine = make_engine("llava_onevision")
    features, pixels = features_of(engine, prompt(engine, "<video>Where?", videos=[media["five"]]))
    with torch.no_grad():
        stock = engine.model.get_video_features(pixels[None]).pooler_output[0]

    assert pixels.shape[0] == 5 and stock.shape[0] == 5 * 9
    assert torch.allclose(features, torch.cat([stock, engine.model.model.image_newline[None]]), **CLOSE)


def test_llava_pictures_are_what_the_stock_processor_makes(make_engine, media):
    engine = make_engine("llava_onevision")
    _, pixels = features_of(engine, prompt(engine, "<image>Where?", [media["image"]]))
    expected = (torch.from_numpy(picture(90)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    assert torch.allclose(pixels[0], expected, atol=1e-2)


def test_llava_image_is_one_whole_tile_with_a_newline(make_engine, media):
    engine = make_engine("llava_onevision")
    features, pixels = features_of(engine, prompt(engine, "<image>Where?", [media["image"]]))
    with torch.no_grad():
        states = engine.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        stock = engine.model.model.multi_modal_projector(states)[0]

    assert pixels.shape[0] == 1 and stock.shape[0] == 36
    assert torch.allclose(features, torch.cat([stock, engine.model.model.image_newline[None]]), **CLOSE)


def test_llava_video_frames_are_averages_with_a_newline_a_row(make_engine, media):
    engine = make_engine("llava_onevision", frame_tokens="llava_video")
    features, pixels = features_of(engine, prompt(engine, "<video>Where?", videos=[media["two"]]))
    with torch.no_grad():
        states = engine.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        grid = engine.model.model.multi_modal_projector(states).view(2, 6, 6, -1)

    features, newline = features.view(2, 3, 4, -1), engine.model.model.image_newline
    assert torch.allclose(features[1, 2, 0], grid[1, 4:6, 0:2].mean((0, 1)), **CLOSE)
    assert torch.allclose(features[0, 1, 2], grid[0, 2:4, 4:6].mean((0, 1)), **CLOSE)
    assert (features[:, :, 3] == newline).all()
    boxes = run(engine, collate(engine, [prompt(engine, "<video>Where?", videos=[media["two"]])])).boxes
    assert len(boxes) == 2


# How releases of transformers have named the weights of a checkpoint: here without `vision_model.`, which 5.8 has not.
LAYOUTS = {
    "of the hub": {"model.language_model": "language_model.model", "model.vision_tower": "vision_tower.vision_model"},
    "saved by 5.5": {
        "model.language_model": "model.language_model.model",
        "model.vision_tower": "model.vision_tower.vision_model",
    },
    "saved by 5.8": {"model.language_model": "language_model.model", "model.vision_tower": "vision_tower"},
    "of 5.5's class": {"model.vision_tower": "model.vision_tower.vision_model"},
    "of 5.8's class": {},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_llava_checkpoints_with_other_names_load_whole(make_engine, tiny_base, tmp_path, layout):
    from spacevllm_plugin.integration.engine_loader import load_engine

    engine = make_engine("llava_onevision")
    shutil.copytree(tiny_base("llava_onevision"), tmp_path, dirs_exist_ok=True)
    own, renamed = engine.model.state_dict(), {}
    for name, value in own.items():
        name = name.replace("vision_tower.vision_model.", "vision_tower.")
        start = next((start for start in LAYOUTS[layout] if name.startswith(f"{start}.")), "")
        name = LAYOUTS[layout].get(start, "") + name.removeprefix(start)
        if layout in ("of the hub", "saved by 5.8"):
            name = name.removeprefix("model.")

        if name != "lm_head.weight":
            renamed[name] = value.clone()

    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_engine(str(tmp_path), infer_dtype="float32").model.state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(value, loaded[name]) for name, value in own.items())


def test_llava_frames_are_those_of_its_own_processor(make_engine, files):
    """We resize before the processor, so that small frames can be cached: not a bit may differ."""
    engine = make_engine("llava_onevision")
    item = prompt(engine, "<video>Where is it?", videos=[files["portrait"]])
    (plan,) = item.videos
    ours = engine.prompter.model_inputs([item.token_ids], [[]], [[plan]])["pixel_values"]
    frames = torch.from_numpy(np.stack([np.asarray(image) for image in read(plan.ref, plan.shown)]))
    whole = engine.processor.video_processor(
        videos=[frames.permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt"
    )
    assert torch.equal(ours, whole["pixel_values_videos"][0])


def test_llava_video_frames_are_halved_downwards_with_a_newline_a_row(make_engine, files):
    engine = make_engine("llava_onevision", frame_tokens="llava_video")
    item = prompt(engine, "<video>Where?", videos=[files["two"]])
    line = lines_of(engine, item)[0]
    assert (line.grid_h, line.grid_w, line.stride) == (3, 3, 4)
    assert text_of(engine, item.token_ids).count("<video>") == 2 * 3 * 4

    prompter = copy.copy(engine.prompter)
    prompter.processor = copy.copy(engine.processor)
    prompter.processor.num_image_tokens = 27 * 27  # the real SigLIP
    grid = prompter.grid(item.videos[0])
    assert (grid.rows, grid.columns, grid.rows * grid.stride) == (13, 13, 182)
    prompter.grounding = GroundingOptions(frame_tokens="onevision")
    grid = prompter.grid(item.videos[0])
    assert (grid.rows, grid.columns, grid.stride) == (14, 14, 14)


def test_pictures_are_squares_whatever_their_shape(make_engine, files):
    engine = make_engine("llava_onevision")
    item = prompt(engine, "<video>a <image>b?", [files["wide"]], [files["portrait"]])
    portrait, wide = (engine.prompter.grid(plan) for plan in (item.videos[0], item.images[0]))
    assert (portrait.rows, portrait.columns, portrait.stride) == (3, 3, 3)
    assert (wide.rows, wide.columns) == (6, 6)
