"""Qwen3.5: thoughts before its answers, layers that keep a state, checkpoints as the hub has them."""

import copy
import json
import logging
import math
import shutil

import pytest
import torch
from conftest import CLOSE, collate, prompt, run, text_of, user
from runs import arguments, tokenise, weights, write_data
from safetensors.torch import save_file

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.tiny import QK_NORM
from spacevllm_plugin.inference.grounding import make_prediction
from spacevllm_plugin.integration.chat import TubeReply
from spacevllm_plugin.integration.engine_loader import load_engine


EMPTY = "<think>\n\n</think>\n\n"
THOUGHT = "<think>\nIs it from 0.0 to 0.5 seconds? Or 0.2 to 1.0?\n</think>\n\n"


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine("qwen3_5")


# Thoughts.


def test_an_empty_thought_stands_before_the_answer_that_is_asked_for(engine, make_engine, media):
    """As in the published template with `enable_thinking=False`: earlier answers bare, the last one behind a thought."""
    turns = [user("<video>Where?"), {"role": "assistant", "content": "Here."}, user("And when?")]
    text = text_of(engine, prompt(engine, turns, videos=[media["two"]]).token_ids)
    assert text.endswith(
        "Where?<|im_end|>\n<|im_start|>assistant\nHere.<|im_end|>\n"
        f"<|im_start|>user\nAnd when?<|im_end|>\n<|im_start|>assistant\n{EMPTY}"
    )
    asked = [{"role": "user", "content": "When?"}]
    stock = engine.processor.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert text_of(engine, prompt(engine, "When?").token_ids) == stock

    free = make_engine("qwen3_5", enable_thinking=True)
    assert text_of(free, prompt(free, "When?").token_ids) == stock.removesuffix(EMPTY)


@pytest.mark.parametrize("given", [None, False, True])
def test_a_thought_is_learned_only_if_the_model_may_think(engine, tiny_base, synthetic_set, tmp_path, given):
    row = synthetic_set.of("stvg")
    asked, told = row.messages
    videos = [str(synthetic_set.folder / video) for video in row.videos]
    bare = {**row.model_dump(exclude_none=True), "videos": videos}
    thinking = copy.deepcopy(bare)
    thinking["id"] = "thinking"
    thinking["messages"][1]["content"] = THOUGHT + told.content
    data = write_data(tmp_path / "data", [bare, thinking])
    options = {} if given is None else {"enable_thinking": given}
    rows = tokenise(tiny_base("qwen3_5"), data, tmp_path / "out", backbone="qwen3_5", dataset="rows", **options)[
        "train_dataset"
    ]
    learned = [text_of(engine, [label for label in labels if label != -100]) for labels in rows["labels"]]
    answer = f"{told.content}<|im_end|>\n"
    assert learned == ([EMPTY + answer, THOUGHT + answer] if given else [answer, answer])
    before = "<|im_start|>assistant\n" + EMPTY
    assert all(
        (before + answer in text_of(engine, ids)) == (not given or i == 0) for i, ids in enumerate(rows["input_ids"])
    )


def test_rows_tokenised_with_thoughts_are_not_taken_for_rows_without(tiny_base, synthetic_set, tmp_path):
    row = {**synthetic_set.of("stvg").model_dump(exclude_none=True)}
    row["videos"] = [str(synthetic_set.folder / video) for video in row["videos"]]
    data = write_data(tmp_path / "data", [row])
    run = {"backbone": "qwen3_5", "dataset": "rows", "tokenized_path": str(tmp_path / "tokens")}
    tokenise(tiny_base("qwen3_5"), data, tmp_path / "out", **run)
    assert len(tokenise(tiny_base("qwen3_5"), data, tmp_path / "out", **run)["train_dataset"]) == 1
    with pytest.raises(ValueError, match="enable_thinking False, now True"):
        tokenise(tiny_base("qwen3_5"), data, tmp_path / "out", **run, enable_thinking=True)


def test_the_span_is_read_behind_the_thought_and_the_reply_shows_none(engine, media):
    item = prompt(engine, "<video>When and where?", videos=[media["five"]], task="stvg")
    boxes = torch.full((len(item.videos[0].frames), 4), 0.5)
    prediction = make_prediction(item, THOUGHT + "From 0.5 to 1.0 seconds.", boxes)
    assert prediction.span_seconds == (0.5, 1.0) and prediction.text.startswith(THOUGHT)
    assert make_prediction(item, THOUGHT.partition("</")[0], boxes).status == "unreadable"

    messages = [user("<video>When and where?")]
    reply = TubeReply(engine.prompter, messages, [], [media["five"]], registry.get("qwen3_5").thought_words)
    reply.sink.append(boxes)
    text, _, block = "".join(reply.complete([THOUGHT, "From 0.5 to ", "1.0 seconds."])).partition("\n\n```json\n")
    assert text == "From 0.5 to 1.0 seconds."
    assert json.loads(block.removesuffix("\n```"))["tubes"][0]["span_seconds"] == [0.5, 1.0]


# Layers.


def test_the_tiny_one_mixes_both_kinds_of_layers_and_its_norms_are_sharpened_where_they_normalise_queries(engine):
    layers = engine.model.model.language_model.layers
    assert [hasattr(layer, "linear_attn") for layer in layers] == [True, False, True, False]
    # Its norms scale by one more than their weights, but for the one behind a state.
    assert (1 + layers[3].self_attn.q_norm.weight == QK_NORM).all()
    assert (1 + layers[3].self_attn.k_norm.weight == QK_NORM).all()
    assert (layers[0].linear_attn.norm.weight == 1).all() and not layers[0].input_layernorm.weight.any()


def test_positions_are_qwen3_vls(engine, prompts):
    inputs = collate(engine, [prompts(engine)["mixed"], prompts(engine)["video"]])
    grids = {name: inputs[name] for name in ("image_grid_thw", "video_grid_thw")}
    config = engine.model.config
    types = (inputs["input_ids"] == config.image_token_id).long() + 2 * (inputs["input_ids"] == config.video_token_id)
    given = {"attention_mask": inputs["attention_mask"], **grids}
    stock = engine.model.model.get_rope_index(inputs["input_ids"], mm_token_type_ids=types, **given)
    ours = engine.model.get_rope_index(inputs["input_ids"], staq_layout=inputs["staq_layout"], **given)
    assert torch.equal(stock[0], ours[0]) and torch.equal(stock[1], ours[1])


def test_a_copy_keeps_padding_out_of_its_states_too(engine, prompts):
    item = prompts(engine)["video"]
    expected = run(engine, collate(engine, [item])).boxes
    model = copy.deepcopy(engine.model)
    with torch.no_grad():
        model.get_input_embeddings().weight[engine.processor.tokenizer.pad_token_id] += 1
        assert torch.allclose(model(**collate(engine, [item], extra=5)).boxes, expected, **CLOSE)


@pytest.mark.parametrize("option", ["packing", "neat_packing"])
def test_packing_is_refused(tiny_base, synthetic_set, tmp_path, option):
    """A state would go on from one text to the next."""
    from llamafactory.hparams import get_train_args

    given = arguments(tiny_base("qwen3_5"), synthetic_set.folder, tmp_path, backbone="qwen3_5", dataset="synthetic")
    with pytest.raises(ValueError, match="does not pack"):
        get_train_args({**given, option: True})


@pytest.mark.parametrize(("version", "usable"), [("5.1.0", False), ("5.2.0", True), ("5.8.0", True)])
def test_older_transformers_lack_it(monkeypatch, version, usable):
    monkeypatch.setattr("spacevllm_plugin.backbones.spec.installed", lambda package: version)
    problem = registry.get("qwen3_5").find_problem()
    assert (problem is None) == usable
    if problem:
        assert problem.endswith("needs transformers>=5.2; installed is 5.1.0")


# A checkpoint as the hub has it, in a tiny width: names and keys as published, nothing asked of the classes.

HIDDEN, FFN, HEAD, HEADS, KV_HEADS = 32, 48, 32, 2, 1
STATE_HEADS, STATE_KEYS, STATE_DIM, KERNEL = 4, 2, 8, 4
TOWER, TOWER_FFN, PATCH, POSITIONS, MERGED = 16, 24, 8, 36, 4


def hub_config(tokenizer, rows, tied):
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    text = {
        **{"attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True, "bos_token_id": None},
        **{"dtype": "float32", "eos_token_id": tokenizer.pad_token_id, "full_attention_interval": 4},
        **{"head_dim": HEAD, "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02},
        "intermediate_size": FFN,
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        **{"linear_conv_kernel_dim": KERNEL, "linear_key_head_dim": STATE_DIM, "linear_num_key_heads": STATE_KEYS},
        **{"linear_num_value_heads": STATE_HEADS, "linear_value_head_dim": STATE_DIM, "mamba_ssm_dtype": "float32"},
        **{"max_position_embeddings": 32768, "mlp_only_layers": [], "model_type": "qwen3_5_text"},
        **{"mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False, "num_attention_heads": HEADS},
        **{
            "num_hidden_layers": 4,
            "num_key_value_heads": KV_HEADS,
            "pad_token_id": None,
            "partial_rotary_factor": 0.25,
        },
        **{"rms_norm_eps": 1e-6, "tie_word_embeddings": tied, "use_cache": True, "vocab_size": rows},
        "rope_parameters": {
            **{"mrope_interleaved": True, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25},
            **{"rope_theta": 10000000, "rope_type": "default"},
        },
    }
    vision = {
        **{"deepstack_visual_indexes": [], "depth": 1, "hidden_act": "gelu_pytorch_tanh", "hidden_size": TOWER},
        **{"in_channels": 3, "initializer_range": 0.02, "intermediate_size": TOWER_FFN, "model_type": "qwen3_5"},
        **{"num_heads": 2, "num_position_embeddings": POSITIONS, "out_hidden_size": HIDDEN, "patch_size": PATCH},
        **{"spatial_merge_size": 2, "temporal_patch_size": 1},
    }
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        **{"image_token_id": ids["image_pad"], "video_token_id": ids["video_pad"], "model_type": "qwen3_5"},
        **{"text_config": text, "tie_word_embeddings": tied, "vision_config": vision},
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }


def hub_shapes(rows, tied):
    mlp = {
        "mlp.gate_proj.weight": [FFN, HIDDEN],
        "mlp.up_proj.weight": [FFN, HIDDEN],
        "mlp.down_proj.weight": [HIDDEN, FFN],
        "input_layernorm.weight": [HIDDEN],
        "post_attention_layernorm.weight": [HIDDEN],
    }
    keys, values = STATE_KEYS * STATE_DIM, STATE_HEADS * STATE_DIM
    linear = {
        "linear_attn.in_proj_qkv.weight": [2 * keys + values, HIDDEN],
        "linear_attn.in_proj_z.weight": [values, HIDDEN],
        "linear_attn.in_proj_b.weight": [STATE_HEADS, HIDDEN],
        "linear_attn.in_proj_a.weight": [STATE_HEADS, HIDDEN],
        "linear_attn.out_proj.weight": [HIDDEN, values],
        "linear_attn.norm.weight": [STATE_DIM],
        "linear_attn.conv1d.weight": [2 * keys + values, 1, KERNEL],
        "linear_attn.A_log": [STATE_HEADS],
        "linear_attn.dt_bias": [STATE_HEADS],
    }
    full = {
        "self_attn.q_proj.weight": [2 * HEADS * HEAD, HIDDEN],
        "self_attn.k_proj.weight": [KV_HEADS * HEAD, HIDDEN],
        "self_attn.v_proj.weight": [KV_HEADS * HEAD, HIDDEN],
        "self_attn.o_proj.weight": [HIDDEN, HEADS * HEAD],
        "self_attn.q_norm.weight": [HEAD],
        "self_attn.k_norm.weight": [HEAD],
    }
    tower = {
        "patch_embed.proj.weight": [TOWER, 3, 1, PATCH, PATCH],
        "patch_embed.proj.bias": [TOWER],
        "pos_embed.weight": [POSITIONS, TOWER],
        **{f"blocks.0.{norm}.{kind}": [TOWER] for norm in ("norm1", "norm2") for kind in ("weight", "bias")},
        "blocks.0.attn.qkv.weight": [3 * TOWER, TOWER],
        "blocks.0.attn.qkv.bias": [3 * TOWER],
        "blocks.0.attn.proj.weight": [TOWER, TOWER],
        "blocks.0.attn.proj.bias": [TOWER],
        "blocks.0.mlp.linear_fc1.weight": [TOWER_FFN, TOWER],
        "blocks.0.mlp.linear_fc1.bias": [TOWER_FFN],
        "blocks.0.mlp.linear_fc2.weight": [TOWER, TOWER_FFN],
        "blocks.0.mlp.linear_fc2.bias": [TOWER],
        "merger.norm.weight": [TOWER],
        "merger.norm.bias": [TOWER],
        "merger.linear_fc1.weight": [MERGED * TOWER, MERGED * TOWER],
        "merger.linear_fc1.bias": [MERGED * TOWER],
        "merger.linear_fc2.weight": [HIDDEN, MERGED * TOWER],
        "merger.linear_fc2.bias": [HIDDEN],
    }
    shapes = {"model.language_model.embed_tokens.weight": [rows, HIDDEN], "model.language_model.norm.weight": [HIDDEN]}
    for number in range(4):
        layer = {**mlp, **(full if number == 3 else linear)}
        shapes |= {f"model.language_model.layers.{number}.{name}": shape for name, shape in layer.items()}

    shapes |= {f"model.visual.{name}": shape for name, shape in tower.items()}
    shapes |= {f"mtp.layers.0.{name}": shape for name, shape in {**mlp, **full}.items()}
    shapes |= {f"mtp.{name}.weight": [HIDDEN] for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")}
    shapes |= {"mtp.fc.weight": [HIDDEN, 2 * HIDDEN]}
    return shapes if tied else {**shapes, "lm_head.weight": [rows, HIDDEN]}


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines += record.getMessage().splitlines()


@pytest.mark.parametrize("tied", [True, False])  # 0.8B to 4B, 9B and 27B
def test_a_checkpoint_of_the_hub_loads_whole_and_is_saved_under_its_names(tiny_base, media, tmp_path, tied):
    folder = tmp_path / "hub"
    shutil.copytree(tiny_base("qwen3_5"), folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    plain = load_engine(str(tiny_base("qwen3_5")))
    tokenizer, rows = plain.processor.tokenizer, plain.model.config.get_text_config().vocab_size
    (folder / "config.json").write_text(json.dumps(hub_config(tokenizer, rows, tied)))
    generator = torch.Generator().manual_seed(0)
    published = {
        name: torch.rand(shape, generator=generator) / math.sqrt(shape[-1])
        for name, shape in hub_shapes(rows, tied).items()
    }
    save_file(published, folder / "model.safetensors", metadata={"format": "pt"})

    logger, records = logging.getLogger("transformers"), Records()
    logger.addHandler(records)
    try:
        engine = load_engine(str(folder), infer_dtype="float32")
    finally:
        logger.removeHandler(records)

    reported = [line.split()[0] for line in records.lines if "MISSING" in line or "UNEXPECTED" in line]
    named = [name for name in reported if name.startswith(("staq", "space", "model", "mtp", "lm_head"))]
    assert named and all(name.startswith(("staq_embedding", "space_decoder")) for name in named)

    kept = {name: value for name, value in published.items() if not name.startswith("mtp.")}
    loaded = engine.model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in kept.items())
    own = {name for name in set(loaded) - set(kept) if name.startswith(("staq_embedding", "space_decoder"))}
    assert set(loaded) - set(kept) - own == ({"lm_head.weight"} if tied else set())
    assert (
        run(engine, collate(engine, [prompt(engine, "<video>Where?", videos=[media["two"]])])).boxes.isfinite().all()
    )

    engine.model.save_pretrained(tmp_path / "saved")
    saved = weights(tmp_path / "saved")
    assert set(saved) == set(kept) | own and all(torch.equal(saved[name], value) for name, value in kept.items())


def test_a_plain_model_saved_by_transformers_5_5_loads_whole(engine, tiny_base, tmp_path):
    """Its vision tower lies below the language model there."""
    base = tiny_base("qwen3_5")
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    own = weights(base)
    moved = {name.replace("model.visual.", "model.language_model.visual."): value for name, value in own.items()}
    assert moved.keys() != own.keys()
    save_file(moved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_engine(str(tmp_path), infer_dtype="float32").model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in own.items())


def test_the_tiny_one_is_saved_under_the_hubs_names(tiny_base):
    names = set(weights(tiny_base("qwen3_5")))
    assert {"model.visual.pos_embed.weight", "model.language_model.layers.0.linear_attn.A_log"} <= names
    assert not any(name.startswith("model.language_model.visual") for name in names)
