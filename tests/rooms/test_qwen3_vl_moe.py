"""Qwen3-VL-MoE: checkpoints as the hub has them."""

import json
import shutil

import pytest
import torch
from conftest import CLOSE, collate
from runs import weights
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from spacevllm_plugin.modeling.grounding_model import HEAD_MODULES


BACKBONE = "qwen3_vl_moe"
EXPERTS = 4


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine(BACKBONE)


# From the config.json of Qwen/Qwen3-VL-30B-A3B-Instruct.
HUB_TEXT = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "hidden_act": "silu",
    "mlp_only_layers": [],
    "model_type": "qwen3_vl_moe_text",
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
}
SIZES = ("bos_token_id", "eos_token_id", "head_dim", "hidden_size", "initializer_range", "intermediate_size")
SIZES += ("max_position_embeddings", "moe_intermediate_size", "num_attention_heads", "num_experts", "vocab_size")
SIZES += ("num_experts_per_tok", "num_hidden_layers", "num_key_value_heads")
VISION_SIZES = ("deepstack_visual_indexes", "depth", "hidden_size", "in_channels", "intermediate_size", "num_heads")
VISION_SIZES += (
    "num_position_embeddings",
    "out_hidden_size",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
)
TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def hub_config(config):
    """The config.json that the hub would have for a model of these sizes: keys of transformers 4.57."""
    text, vision = config.text_config, config.vision_config
    rope = {"mrope_interleaved": True, "mrope_section": text.rope_parameters["mrope_section"], "rope_type": "default"}
    return {
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "model_type": "qwen3_vl_moe",
        "text_config": {
            **HUB_TEXT,
            **{name: getattr(text, name) for name in SIZES},
            "rope_scaling": rope,
            "rope_theta": text.rope_parameters["rope_theta"],
        },
        "tie_word_embeddings": False,
        "vision_config": {
            "hidden_act": "gelu_pytorch_tanh",
            "model_type": "qwen3_vl_moe",
            **{name: getattr(vision, name) for name in VISION_SIZES},
        },
        **{name: getattr(config, name) for name in TOKENS},
    }


def hub_shapes(config):
    """Names and shapes of the weights in the index files of the hub: experts fused, (experts, in, out)."""
    text, vision = config["text_config"], config["vision_config"]
    d, experts, inner = text["hidden_size"], text["num_experts"], text["moe_intermediate_size"]
    heads = text["head_dim"] * text["num_attention_heads"], text["head_dim"] * text["num_key_value_heads"]
    shapes = {
        "lm_head.weight": (text["vocab_size"], d),
        "model.language_model.embed_tokens.weight": (text["vocab_size"], d),
        "model.language_model.norm.weight": (d,),
    }
    for layer in range(text["num_hidden_layers"]):
        own = {
            "input_layernorm.weight": (d,),
            "mlp.experts.down_proj": (experts, inner, d),
            "mlp.experts.gate_up_proj": (experts, d, 2 * inner),
            "mlp.gate.weight": (experts, d),
            "post_attention_layernorm.weight": (d,),
            "self_attn.k_norm.weight": (text["head_dim"],),
            "self_attn.k_proj.weight": (heads[1], d),
            "self_attn.o_proj.weight": (d, heads[0]),
            "self_attn.q_norm.weight": (text["head_dim"],),
            "self_attn.q_proj.weight": (heads[0], d),
            "self_attn.v_proj.weight": (heads[1], d),
        }
        shapes |= {f"model.language_model.layers.{layer}.{name}": shape for name, shape in own.items()}

    def linear(place, out, width):
        return {f"model.visual.{place}.weight": (out, width), f"model.visual.{place}.bias": (out,)}

    def norm(place, width):
        return {f"model.visual.{place}.weight": (width,), f"model.visual.{place}.bias": (width,)}

    v, wide, merged = vision["hidden_size"], vision["intermediate_size"], vision["hidden_size"] * 4
    patch = (v, vision["in_channels"], vision["temporal_patch_size"], vision["patch_size"], vision["patch_size"])
    shapes |= {"model.visual.patch_embed.proj.weight": patch, "model.visual.patch_embed.proj.bias": (v,)}
    shapes["model.visual.pos_embed.weight"] = (vision["num_position_embeddings"], v)
    for block in (f"blocks.{number}" for number in range(vision["depth"])):
        shapes |= norm(f"{block}.norm1", v) | norm(f"{block}.norm2", v)
        shapes |= linear(f"{block}.attn.qkv", 3 * v, v) | linear(f"{block}.attn.proj", v, v)
        shapes |= linear(f"{block}.mlp.linear_fc1", wide, v) | linear(f"{block}.mlp.linear_fc2", v, wide)

    mergers = {
        "merger": v,
        **{f"deepstack_merger_list.{n}": merged for n in range(len(vision["deepstack_visual_indexes"]))},
    }
    for merger, width in mergers.items():
        shapes |= norm(f"{merger}.norm", width)
        shapes |= linear(f"{merger}.linear_fc1", merged, merged) | linear(f"{merger}.linear_fc2", d, merged)

    return shapes


def test_a_checkpoint_as_the_hub_has_it(tiny_base, tmp_path):
    from spacevllm_plugin.integration.engine_loader import load_engine

    plain = tiny_base(BACKBONE)
    for file in plain.iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, tmp_path)

    config = hub_config(AutoConfig.from_pretrained(plain))
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    stored = {name: torch.randn(shape) for name, shape in hub_shapes(config).items()}
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())

    model = load_engine(str(tmp_path), infer_dtype="float32").model
    loaded = {name: value for name, value in model.state_dict().items() if name.split(".")[0] not in HEAD_MODULES}
    assert loaded.keys() == stored.keys()
    for name, value in loaded.items():
        there = stored[name].transpose(1, 2) if ".experts." in name else stored[name]
        assert torch.equal(value, there), name

    assert model.config.text_config.num_experts == EXPERTS
    assert model.config.text_config.rope_parameters["rope_theta"] == config["text_config"]["rope_theta"]

    # Saved, both transformers and we read it again: as the class has it, whatever the release.
    model.save_pretrained(tmp_path / "again")
    assert {name: value.shape for name, value in weights(tmp_path / "again").items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }


def test_boxes_do_not_depend_on_the_batch(engine, prompts):
    """Experts take the tokens of all rows together."""
    items = [prompts(engine)[name] for name in ("video", "text", "mixed")]
    with torch.no_grad():
        together = engine.model(**collate(engine, items, "right")).boxes
        alone = torch.cat([engine.model(**collate(engine, [item])).boxes for item in items if item.videos])

    assert torch.allclose(together, alone, **CLOSE)
