"""Qwen3-VL-MoE: the router's loss, and checkpoints as the hub has them."""

import json
import shutil

import pytest
import torch
from conftest import CLOSE, collate, supervised
from runs import arguments, largest_difference, model_and_batch, train, weights, write_data
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import (
    Qwen3VLMoeTextSparseMoeBlock,
    Qwen3VLMoeTextTopKRouter,
    load_balancing_loss_func,
)

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.router import load_balancing_loss
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.modeling.grounding_model import HEAD_MODULES


BACKBONE = "qwen3_vl_moe"
LAYERS, EXPERTS, CHOSEN = 4, 4, 2


# The router's loss.


@pytest.mark.parametrize("recorded", ["logits", "probabilities"])
def test_the_loss_is_that_of_transformers_whatever_it_records(recorded):
    torch.manual_seed(0)
    logits = [torch.randn(3 * 5, 6, requires_grad=True) for _ in range(2)]
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    given = tuple(x.softmax(dim=-1) if recorded == "probabilities" else x for x in logits)
    for attention_mask in (mask, None):
        theirs = load_balancing_loss_func(tuple(logits), 6, 2, attention_mask)
        ours = load_balancing_loss(given, 2, attention_mask)
        assert torch.allclose(ours, theirs, atol=1e-6)
        gradients = (torch.autograd.grad(loss, logits, retain_graph=True) for loss in (ours, theirs))
        assert all(torch.allclose(a, b, atol=1e-7) and b.abs().max() > 1e-3 for a, b in zip(*gradients))

    packed = torch.zeros(3, 1, 5, 5)  # tells which tokens see which; all count
    assert torch.equal(load_balancing_loss(given, 2, packed), load_balancing_loss(given, 2, None))


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine(BACKBONE)


def test_the_loss_is_that_of_the_logits_and_weighted(engine, prompts):
    """The logits computed from what goes into each router."""
    model, logits = engine.model, []

    def compute(router, args):
        logits.append(torch.nn.functional.linear(args[0].reshape(-1, router.hidden_dim), router.weight))

    routers = [module for module in model.modules() if isinstance(module, Qwen3VLMoeTextTopKRouter)]
    handles = [router.register_forward_pre_hook(compute) for router in routers]
    batch = supervised(engine, [prompts(engine)[name] for name in ("mixed", "video", "text")])
    result = model(**batch)
    for handle in handles:
        handle.remove()

    assert len(logits) == LAYERS and not batch["attention_mask"].all()
    wanted = load_balancing_loss_func(tuple(logits), EXPERTS, CHOSEN, batch["attention_mask"])
    (loss,) = (result.extra_losses or {}).values()
    assert torch.allclose(loss, wanted, atol=1e-5) and loss.requires_grad
    assert model.extra_loss_weights == {"loss_router": 0.001}  # the config class's own
    others = result.loss_lm + 5 * result.loss_l1 + 2 * result.loss_giou
    assert torch.allclose(result.loss, others + 0.001 * wanted, atol=1e-6)
    part = model(**batch, num_micro_batches=8).extra_losses["loss_router"]
    assert torch.allclose(part * 8, loss, atol=1e-6)


def test_without_gradients_or_weight_routers_record_nothing(engine, prompts):
    model, seen = engine.model, []
    batch = supervised(engine, [prompts(engine)["video"]])
    record = model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("output_router_logits", False)), with_kwargs=True
    )
    text = model.config.get_text_config()
    before = text.router_aux_loss_coef
    try:
        with torch.no_grad():
            assert model(**batch).extra_losses is None

        model.generate(**collate(engine, [prompts(engine)["video"]]), max_new_tokens=2)
        text.router_aux_loss_coef = 0.0
        assert model(**batch).extra_losses is None and not any(seen) and len(seen) >= 4
        text.router_aux_loss_coef = before
        assert model(**batch).extra_losses is not None and seen[-1]
    finally:
        text.router_aux_loss_coef = before
        record.remove()


@pytest.fixture(scope="module")
def data(synthetic_set, tmp_path_factory):
    """One row eight times: of whatever parts a batch of these is made, its routers choose alike."""
    folder = tmp_path_factory.mktemp("router") / "data"
    row = synthetic_set.of("stvg").model_dump(exclude_none=True)
    write_data(folder, [{**row, "id": str(number)} for number in range(8)])
    shutil.copytree(synthetic_set.folder / "videos", folder / "videos")
    assert len(list(read_rows(folder / "rows.jsonl"))) == 8
    return folder


@pytest.fixture(scope="module")
def runs(tiny_base, data, tmp_path_factory):
    """Two SGD steps in which the router's loss has a weight one can see: by batch and accumulation, and by checkpointing."""
    out = tmp_path_factory.mktemp("runs")
    common = {"dataset": "rows", "backbone": BACKBONE, "max_steps": 2, "optim": "sgd", "learning_rate": 0.05}
    options = {
        "8x1": {},
        "1x8": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        "checkpointing": {"disable_gradient_checkpointing": False},
        "unsloth": {"disable_gradient_checkpointing": False, "use_unsloth_gc": True},
        "weightless": {"moe_aux_loss_coef": 0.0},
    }
    logs = {}
    for name, more in options.items():
        run = {"per_device_train_batch_size": 8, "moe_aux_loss_coef": 30.0, **common, **more}
        logs[name] = train(tiny_base(BACKBONE), data, out / name, **run)

    return out, logs


def routers_of(folder):
    return {name: value for name, value in weights(folder).items() if name.endswith("mlp.gate.weight")}


def test_the_router_learns_from_it_and_it_is_logged(runs, tiny_base):
    out, logs = runs
    first, second = logs["8x1"][:2]
    assert 1.5 < first["loss_router"] < 3 and second["loss_router"] < first["loss_router"]
    assert "loss_router" not in logs["weightless"][0]
    assert largest_difference(routers_of(out / "8x1"), routers_of(out / "weightless")) > 5e-4


@pytest.mark.parametrize("other", ["1x8", "checkpointing", "unsloth"])
def test_neither_accumulation_nor_checkpointing_changes_it(runs, other):
    """LLaMA-Factory's own checkpointing is reentrant: a loss recorded in its first pass would teach nothing."""
    out, logs = runs
    for a, b in zip(logs["8x1"][:2], logs[other][:2]):
        for part in ("loss", "loss_lm", "loss_router"):
            assert a[part] == pytest.approx(b[part], rel=1e-4), part

    assert len(routers_of(out / other)) == LAYERS
    assert largest_difference(routers_of(out / "8x1"), routers_of(out / other)) < 1e-5
    assert largest_difference(weights(out / "8x1"), weights(out / other)) < 1e-5


def test_the_weight_is_the_checkpoints_own_unless_given(tiny_base, data, tmp_path):
    for given, weight in (({}, 0.001), ({"moe_aux_loss_coef": 0.5}, 0.5)):
        run = arguments(tiny_base(BACKBONE), data, tmp_path, dataset="rows", backbone=BACKBONE, **given)
        model, _ = model_and_batch(run, 1)
        assert model.extra_loss_weights == {"loss_router": weight}


def test_zero_3_gathers_a_layers_experts_whole(engine):
    deepspeed = pytest.importorskip("deepspeed", reason="extra `deepspeed`")
    from spacevllm_plugin.integration.loader import gather_experts_alike

    gather_experts_alike(engine.model, registry.get(BACKBONE))
    whole = [module for module in engine.model.modules() if deepspeed.utils.z3_leaf_module(module)]
    assert len(whole) == LAYERS and all(isinstance(module, Qwen3VLMoeTextSparseMoeBlock) for module in whole)
    deepspeed.utils.unset_z3_leaf_modules(engine.model, [Qwen3VLMoeTextSparseMoeBlock])


# Checkpoints.

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


def test_text_logits_of_a_hub_checkpoint_do_not_depend_on_the_batch(engine, prompts):
    """Experts take the tokens of all rows together."""
    items = [prompts(engine)[name] for name in ("video", "text", "mixed")]
    with torch.no_grad():
        together = engine.model(**collate(engine, items, "right")).boxes
        alone = torch.cat([engine.model(**collate(engine, [item])).boxes for item in items if item.videos])

    assert torch.allclose(together, alone, **CLOSE)
