"""Targets reach the loss as the data has them, whatever mixed precision does to a model's inputs on the way."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from runs import arguments, model_and_batch, write_data
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from transformers import Trainer

from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.integration.trainer import count_boxes
from spacevllm_plugin.modeling import grounding_model
from spacevllm_plugin.modeling.box_bits import from_bits, to_bits


MANY = 257  # bf16 has no place for this number nor for its multiples


def test_bits_keep_every_number_and_nan():
    targets = torch.tensor([[0.1, 1 / 3, 0.0, 1.0], [math.nan] * 4])
    bits = to_bits(targets)
    assert not bits.is_floating_point() and bits.shape == targets.shape
    assert torch.equal(from_bits(bits)[0], targets[0]) and from_bits(bits)[1].isnan().all()
    assert from_bits(targets) is targets


@pytest.fixture(scope="module")
def training(tiny_base, tmp_path_factory):
    """A tiny model and a batch of one video, as training has them."""
    folder = tmp_path_factory.mktemp("bits")
    rows = write_set(folder / "data", SynthConfig(num_videos=1))
    write_data(folder / "data", [rows[0].model_dump(exclude_none=True)])
    return model_and_batch(arguments(tiny_base("qwen3_vl"), folder / "data", folder / "out", dataset="rows"), 1)


@pytest.fixture
def one_rank(tmp_path):
    init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    destroy_process_group()


def blocks(model):
    return {type(block) for tower in (model.model.visual.blocks, model.model.language_model.layers) for block in tower}


# What accelerate makes of `mixed_precision: bf16`, for FSDP and for FSDP 2.
FSDP_BF16 = MixedPrecision(**dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), torch.bfloat16))
FSDP2_BF16 = MixedPrecisionPolicy(**dict.fromkeys(("param_dtype", "reduce_dtype", "output_dtype"), torch.bfloat16))


def fsdp1(model, batch):
    wrapped = FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy(blocks(model)),
        mixed_precision=FSDP_BF16,
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    return wrapped, batch


def fsdp2(model, batch):
    mesh = init_device_mesh("cpu", (1,))
    for module in [*(m for m in model.modules() if type(m) in blocks(model)), model]:
        fully_shard(module, mesh=mesh, mp_policy=FSDP2_BF16)

    return model, batch


def deepspeed(model, batch):
    """The trainer casts the inputs; the weights are in bf16 too."""
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    trainer = SimpleNamespace(
        is_deepspeed_enabled=True,
        args=SimpleNamespace(device=torch.device("cpu")),
        accelerator=SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin)),
    )
    trainer._prepare_input = lambda data: Trainer._prepare_input(trainer, data)
    return model.bfloat16(), trainer._prepare_input(batch)


@torch.no_grad()
def what_the_loss_gets(monkeypatch, model, batch):
    """Targets and number of boxes that a forward pass hands to the space loss."""
    taken = []
    space_losses = grounding_model.space_losses

    def watched(boxes, targets, num_boxes):
        taken.append((targets, num_boxes))
        return space_losses(boxes, targets, num_boxes)

    monkeypatch.setattr(grounding_model, "space_losses", watched)
    count = count_boxes([batch] * MANY, torch.device("cpu"))
    assert model(**batch, num_boxes_in_batch=count).loss.isfinite()
    return taken[0]


ON_CPU = pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="FSDP 2 of torch 2.6 wants a GPU")


@pytest.mark.parametrize("way", [fsdp1, pytest.param(fsdp2, marks=ON_CPU), deepspeed])
def test_no_mixed_precision_rounds_the_targets(monkeypatch, training, one_rank, way):
    model, batch = training
    exact, _ = what_the_loss_gets(monkeypatch, model, batch)
    there = exact.isfinite().all(dim=-1)
    assert there.any() and not there.all()
    assert not torch.equal(exact[there].bfloat16().float(), exact[there])  # or rounding them would not show

    found, count = what_the_loss_gets(monkeypatch, *way(copy.deepcopy(model), dict(batch)))
    assert torch.equal(found[there], exact[there]) and found[~there].isnan().all()
    assert count == MANY * there.sum()
