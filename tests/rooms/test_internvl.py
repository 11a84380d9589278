"""InternVL's tiles, tokens and checkpoints."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import CLOSE, collate, prompt, run, text_of
from PIL import Image
from prompting import lines_of
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, InternVLConfig, InternVLForConditionalGeneration

from spacevllm_plugin.backbones.tiny import (
    CHATML_TOKENS,
    PHRASES,
    SENTENCE,
    SENTENCE_TIMES,
    TIMES,
    default_corpus,
    train_tokenizer,
)
from spacevllm_plugin.data.video import read
from spacevllm_plugin.integration.engine_loader import load_engine


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine("internvl")


def frames_of(plan):
    return torch.from_numpy(np.stack([np.asarray(image) for image in read(plan.ref, plan.shown)])).permute(0, 3, 1, 2)


def without_queries(engine, item):
    """The prompt as InternVL writes it: its image's token for frames, no queries, no sentence about times."""
    text = text_of(engine, item.token_ids).replace("<video>", "<IMG_CONTEXT>").replace("<|staq|>", "")
    for plan in item.videos:
        text = text.replace(engine.prompter.video_suffix(plan), "\n")

    return text


def test_prompts_and_tiles_are_the_stock_processors(engine, files):
    item = prompt(engine, "<video>a <image>\nWhich?", [files["wide"]], [files["portrait"]])
    inputs = collate(engine, [item])
    content = [
        {"type": "video"},
        {"type": "text", "text": "a "},
        {"type": "image"},
        {"type": "text", "text": "Which?"},
    ]
    text = engine.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    stock = engine.processor(
        text=[text],
        images=[Image.open(files["wide"])],
        videos=[frames_of(item.videos[0])],
        crop_to_patches=False,
        return_tensors="pt",
    )
    assert torch.equal(inputs["pixel_values"], stock["pixel_values"]) and len(inputs["pixel_values"]) == 5
    assert without_queries(engine, item) == text_of(engine, stock["input_ids"][0])


@pytest.mark.parametrize("kind", ["image", "video"])
def test_up_to_the_first_query_all_states_are_the_stock_models(engine, tiny_base, files, kind):
    """Whatever token stands for a frame's features."""
    given = {"images": [files["image"]]} if kind == "image" else {"videos": [files["one"]]}
    inputs = collate(engine, [prompt(engine, f"<{kind}>Where?", **given)])
    ids, config = inputs["input_ids"], engine.model.config
    end = int((ids[0] == config.staq_token_id).nonzero()[0])
    assert (ids == config.video_token_id).any() == (kind == "video") and config.video_token_id != config.image_token_id
    stock = AutoModelForImageTextToText.from_pretrained(tiny_base("internvl")).eval()
    before = ids[:, :end].masked_fill(ids[:, :end] == config.video_token_id, config.image_token_id)
    with torch.no_grad():
        expected = stock(input_ids=before, pixel_values=inputs["pixel_values"]).logits

    assert torch.allclose(run(engine, inputs).logits[:, :end], expected, **CLOSE)


def test_a_token_of_the_grid_is_four_patches_of_its_place(engine, files):
    """With attention silenced in the vision tower, a change of pixels shows where it was made."""
    model = copy.deepcopy(engine.model)
    for layer in model.model.vision_tower.encoder.layer:
        layer.lambda_1.data.zero_()

    item = prompt(engine, "<image>Where?", images=[files["image"]])
    (line,) = lines_of(engine, item)
    assert (line.grid_h, line.grid_w, line.stride) == (3, 3, 3)
    pixels = collate(engine, [item])["pixel_values"]
    changed = pixels.clone()
    changed[:, :, 16:32, 32:48] += 1  # the second row's last token, of patches of 8 pixels
    with torch.no_grad():
        a, b = (model.model.get_image_features(one, return_dict=True).pooler_output[0] for one in (pixels, changed))

    assert (a - b).abs().amax(-1).gt(1e-4).nonzero()[:, 0].tolist() == [line.stride + 2]


def test_pictures_are_squares_whatever_their_shape(engine, files):
    item = prompt(engine, "<video>a <image>b?", [files["wide"]], [files["portrait"]])
    grids = {tuple(vars(engine.prompter.grid(plan)).values()) for plan in (*item.videos, *item.images)}
    assert grids == {(3, 3, 3)}


# Checkpoints of the hub. What their config.json says, with smaller numbers; sizes of which there are two, as they come.

VISION = {
    "architectures": ["InternVisionModel"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 64,
    "image_size": [48, 48],
    "initializer_factor": 0.1,
    "initializer_range": 1e-10,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-06,
    "layer_scale_init_value": 0.1,
    "model_type": "internvl_vision",
    "norm_type": "layer_norm",
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": [8, 8],
    "projection_dropout": 0.0,
    "torch_dtype": "bfloat16",
    "use_absolute_position_embeddings": True,
    "use_mask_token": False,
    "use_mean_pooling": True,
    "use_qk_norm": False,
}
VISION_6B = {**VISION, "attention_bias": False, "norm_type": "rms_norm", "use_qk_norm": True}
TEXT = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 192,
    "max_position_embeddings": 32768,
    "max_window_layers": 70,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
}
QWEN2 = {
    **TEXT,
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
}
QWEN3 = {
    **TEXT,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 32,
    "rope_scaling": None,
}
# (language model, vision tower, rows beyond the tokens): InternVL3's embedding ends before `<video>`.
HUB = {
    "InternVL3-8B": (QWEN2, VISION, -1),
    "InternVL3-38B": (QWEN2, VISION_6B, -1),
    "InternVL3.5-8B": (QWEN3, VISION, 64),
    "InternVL3.5-38B": (QWEN3, VISION_6B, 64),
}
HUB_NAMES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


@pytest.fixture(scope="module", params=HUB)
def hub(request, engine, tmp_path_factory):
    """(folder, weights by the hub's names, the stock model) of a checkpoint as the hub has it, in tiny width."""
    folder = tmp_path_factory.mktemp("hub")
    text, vision, more = HUB[request.param]
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    phrases = PHRASES + SENTENCE
    tokenizer = train_tokenizer(default_corpus(), CHATML_TOKENS, TIMES + SENTENCE_TIMES, phrases, **marks)
    tokenizer.add_tokens(["<video>"], special_tokens=True)  # the last one came later
    tokenizer.chat_template = engine.processor.tokenizer.chat_template
    processor = copy.copy(engine.processor)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    written = json.loads((folder / "tokenizer_config.json").read_text())
    written.pop("model_specific_special_tokens", None)
    written["extra_special_tokens"] = {**marks, "video_token": "<video>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(written))

    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": 9,
        "image_token_id": tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": {**text, "vocab_size": len(tokenizer) + more},
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.0.dev0",
        "vision_config": vision,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    stock = InternVLForConditionalGeneration(InternVLConfig.from_pretrained(folder)).float()
    stock.lm_head.weight = torch.nn.Parameter(torch.randn_like(stock.lm_head.weight) / 10)  # never tied
    weights = {}
    for name, value in stock.state_dict().items():
        value.normal_(std=0.05).copy_(value.bfloat16())
        start = next(start for start in HUB_NAMES if name.startswith(start))
        weights[HUB_NAMES[start] + name.removeprefix(start)] = value.bfloat16()

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, weights, stock.eval()


def load(folder, **arguments):
    """Through LLaMA-Factory, which keeps a checkpoint's precision; then exactly, for comparisons."""
    engine = load_engine(str(folder), infer_dtype="float32", **arguments)
    engine.model.float()
    return engine


@pytest.fixture(scope="module")
def loaded(hub):
    return load(hub[0])


def test_a_checkpoint_as_the_hub_has_it_loads_whole(hub, loaded):
    folder, weights, stock = hub
    own = loaded.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in stock.state_dict().items())
    assert {name.split(".")[0] for name in own.keys() - stock.state_dict().keys()} == {
        "staq_embedding",
        "space_decoder",
    }
    assert not loaded.model.config.tie_word_embeddings
    _, info = type(loaded.model).from_pretrained(folder, config=loaded.model.config, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert set(info["missing_keys"]) == own.keys() - stock.state_dict().keys()
    assert any(name.startswith("language_model.model.layers.3.") for name in weights)


def test_a_checkpoint_as_the_hub_has_it_answers_and_is_saved(hub, loaded, files, tmp_path):
    folder, _, stock = hub
    text = collate(loaded, [prompt(loaded, "How many circles?")])
    with torch.no_grad():
        assert torch.allclose(stock(**text).logits, run(loaded, text).logits, **CLOSE)

    rows, tokenizer = stock.config.text_config.vocab_size, AutoTokenizer.from_pretrained(folder)
    config = loaded.model.config
    assert config.video_token_id == tokenizer.convert_tokens_to_ids("<video>") == len(tokenizer) - 1
    assert config.staq_token_id == len(tokenizer) and (rows < len(tokenizer)) == (
        stock.config.text_config.model_type == "qwen2"
    )
    item = prompt(loaded, "<image>and <video>Which?", [files["image"]], [files["five"]])
    inputs, sink = collate(loaded, [item]), []
    answer = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "repetition_penalty": 1.2}
    tokens = loaded.model.generate(**inputs, **answer, box_sink=sink)
    assert len(sink[0]) == 6 and torch.allclose(sink[0], run(loaded, inputs).boxes, **CLOSE)
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert not again.model.config.tie_word_embeddings and again.model.config.video_token_id == config.video_token_id
    assert torch.equal(again.model.generate(**inputs, **answer), tokens)


def test_growing_the_vocabulary_leaves_the_output_layer_its_own(hub):
    """Nothing in the hub's configs says outright that it is not the embedding."""
    folder, weights, _ = hub
    model = load(folder, resize_vocab=True).model
    rows = weights["language_model.lm_head.weight"].shape[0]
    for layer, name in ((model.lm_head, "lm_head"), (model.get_input_embeddings(), "model.embed_tokens")):
        assert torch.equal(layer.weight[:rows], weights[f"language_model.{name}.weight"].float())
