"""The loss of a router, for every backbone that is a mixture of experts."""

import shutil
from pkgutil import resolve_name

import pytest
import torch
from conftest import collate, supervised
from runs import arguments, largest_difference, model_and_batch, train, weights, write_data
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import load_balancing_loss_func

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.router import load_balancing_loss


MIXTURES = {spec.name: resolve_name(spec.expert_block) for spec in registry.usable() if spec.expert_block}


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


@pytest.fixture(scope="module", params=MIXTURES)
def backbone(request):
    return request.param


@pytest.fixture(scope="module")
def engine(make_engine, backbone):
    return make_engine(backbone)


def blocks_of(model, backbone):
    return [module for module in model.modules() if isinstance(module, MIXTURES[backbone])]


def test_the_loss_is_that_of_the_logits_and_weighted(engine, prompts, backbone):
    """The logits computed from what goes into each router."""
    model, logits = engine.model, []

    def compute(router, args):
        logits.append(torch.nn.functional.linear(args[0].flatten(end_dim=-2), router.weight))

    blocks, text = blocks_of(model, backbone), model.config.get_text_config()
    handles = [block.gate.register_forward_pre_hook(compute) for block in blocks]
    batch = supervised(engine, [prompts(engine)[name] for name in ("mixed", "video", "text")])
    result = model(**batch)
    for handle in handles:
        handle.remove()

    assert len(logits) == text.num_hidden_layers and not batch["attention_mask"].all()
    wanted = load_balancing_loss_func(
        tuple(logits), text.num_experts, text.num_experts_per_tok, batch["attention_mask"]
    )
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
    return folder


@pytest.fixture(scope="module")
def runs(tiny_base, backbone, data, tmp_path_factory):
    """Two SGD steps in which the router's loss has a weight one can see: by batch and accumulation, and by checkpointing."""
    out = tmp_path_factory.mktemp("runs")
    common = {"dataset": "rows", "backbone": backbone, "max_steps": 2, "optim": "sgd", "learning_rate": 0.05}
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
        logs[name] = train(tiny_base(backbone), data, out / name, **run)

    return out, logs


def routers_of(folder):
    return {name: value for name, value in weights(folder).items() if name.endswith("mlp.gate.weight")}


def test_the_router_learns_from_it_and_it_is_logged(runs):
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

    assert routers_of(out / other)
    assert largest_difference(routers_of(out / "8x1"), routers_of(out / other)) < 1e-5
    assert largest_difference(weights(out / "8x1"), weights(out / other)) < 1e-5


def test_the_weight_is_the_checkpoints_own_unless_given(tiny_base, backbone, data, tmp_path):
    for given, weight in (({}, 0.001), ({"moe_aux_loss_coef": 0.5}, 0.5)):
        run = arguments(tiny_base(backbone), data, tmp_path, dataset="rows", backbone=backbone, **given)
        model, _ = model_and_batch(run, 1)
        assert model.extra_loss_weights == {"loss_router": weight}


def test_zero_3_gathers_a_layers_experts_whole(engine, backbone):
    deepspeed = pytest.importorskip("deepspeed", reason="extra `deepspeed`")
    from spacevllm_plugin.integration.loader import gather_experts_alike

    gather_experts_alike(engine.model, registry.get(backbone))
    whole = [module for module in engine.model.modules() if deepspeed.utils.z3_leaf_module(module)]
    assert whole == blocks_of(engine.model, backbone) != []
    deepspeed.utils.unset_z3_leaf_modules(engine.model, [MIXTURES[backbone]])
