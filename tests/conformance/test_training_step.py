"""What a training step does not do: boxes that nothing learns from, and a host that waits for the device."""

import math

import pytest
import torch
from conftest import BACKBONES, supervised
from torch.utils._python_dispatch import TorchDispatchMode

from spacevllm_plugin.modeling.configuration import LossOptions


@pytest.fixture(scope="module", params=BACKBONES)
def model_and_batch(request, make_engine, prompts):
    """A model with all its heads and a training batch of several rows; the first row alone has boxes."""
    engine = make_engine(request.param, presence_head=True)
    items = prompts(engine)
    batch = supervised(engine, [items[name] for name in ("mixed", "video", "text", "image")])
    first = int((batch["input_ids"][0] == engine.model.config.staq_token_id).sum())
    batch["box_targets"][first:] = math.nan
    yield engine.model, batch, first
    engine.model.eval()


def step(model, batch, training):
    """Losses, boxes, gradients and the decoder's number of queries."""
    decoded = []
    handle = model.space_decoder.register_forward_pre_hook(lambda _, args: decoded.append(len(args[0])))
    model.train(training)
    model.zero_grad()
    result = model(**batch)
    result.loss.backward()
    handle.remove()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    parts = [result[name] for name in ("loss", "loss_lm", "loss_l1", "loss_giou", "loss_presence")]
    return torch.stack(parts).detach(), result.boxes.detach(), gradients, decoded


def test_rows_without_a_box_are_not_decoded_and_nothing_else_changes(model_and_batch):
    model, batch, first = model_and_batch
    losses, boxes, gradients, decoded = step(model, batch, training=True)
    all_losses, all_boxes, all_gradients, all_decoded = step(model, batch, training=False)
    assert decoded == [first] and all_decoded == [len(batch["staq_layout"])] and first < all_decoded[0]
    assert torch.allclose(losses, all_losses, atol=1e-6) and losses.all()
    assert boxes.shape == all_boxes.shape and torch.allclose(boxes[:first], all_boxes[:first], atol=1e-6)
    assert not boxes[first:].any()
    assert gradients.keys() == all_gradients.keys()
    for name, gradient in gradients.items():
        # Matrices of another size are multiplied in another order.
        assert (gradient - all_gradients[name]).abs().max() < 2e-6 * gradient.abs().max().clamp(min=1), name


@pytest.mark.parametrize("targets", ["none_is_true", "not_given"])
def test_without_any_box_every_head_still_takes_part(model_and_batch, targets):
    """Every rank of a distributed run must run the same backward."""
    model, batch, _ = model_and_batch
    batch = {**batch, "box_targets": torch.full_like(batch["box_targets"], math.nan)}
    if targets == "not_given":
        del batch["box_targets"]

    losses, boxes, gradients, decoded = step(model, batch, training=True)
    assert decoded == [1] and not losses[2:].any() and boxes.isfinite().all()
    further = model(**batch).extra_losses or {}
    weighted = sum(model.extra_loss_weights[name] * loss for name, loss in further.items())
    assert losses[0] == losses[1] + weighted
    for name, parameter in model.space_decoder.named_parameters(prefix="space_decoder"):
        assert torch.equal(gradients[name], torch.zeros_like(parameter)), name

    assert gradients["staq_embedding.weight"].isfinite().all()


@pytest.mark.parametrize("name", ["mixed", "video", "image", "turns"])
def test_every_parameter_takes_part_but_those_that_are_named(model_and_batch, make_engine, prompts, request, name):
    """So that DDP need not search for those without a gradient, which no rank may have of others."""
    model, *_ = model_and_batch
    engine = make_engine(request.node.callspec.params["model_and_batch"], presence_head=True)
    _, _, gradients, _ = step(model, supervised(engine, [prompts(engine)[name]]), training=True)
    unread = {id(parameter) for module in model.unread_modules for parameter in module.parameters()}
    assert {key for key, parameter in model.named_parameters() if id(parameter) not in unread} == gradients.keys()


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_leaves_the_gradient_of_presence_as_it_is(model_and_batch, reentrant):
    model, batch, _ = model_and_batch
    model.loss_options = LossOptions(presence_loss_weight=20)
    try:
        losses, _, gradients, _ = step(model, batch, training=True)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        again, _, same, _ = step(model, batch, training=True)
    finally:
        model.gradient_checkpointing_disable()
        model.loss_options = LossOptions()

    assert torch.equal(losses, again) and gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        assert (gradient - same[name]).abs().max() < 2e-6 * gradient.abs().max().clamp(min=1), name


class HostWaits(TorchDispatchMode):
    """Names the operations whose value or shape the host must know before it can go on."""

    aten = torch.ops.aten
    always = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero)
    always += (aten._unique2, aten.unique_consecutive, aten.unique_dim_consecutive, aten.repeat_interleave)
    by_mask = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket
        masks = [one for one in args[1] if one is not None and one.dtype == torch.bool] if name in self.by_mask else []
        if name in self.always or masks:
            self.seen.append(str(name))

        return func(*args, **(kwargs or {}))


def test_behind_the_language_model_the_host_waits_for_nothing(model_and_batch):
    """From behind its last layer to the loss: layers may look up where visual tokens stand, or which experts are chosen."""
    model, batch, _ = model_and_batch
    counts = {"num_items_in_batch": torch.tensor(12), "num_boxes_in_batch": torch.tensor(5.0)}
    waits = HostWaits()

    def begin(*_):
        waits.__enter__()

    handle = model.model.language_model.layers[-1].register_forward_hook(begin)
    model.train()
    loss = model(**batch, **counts).loss
    handle.remove()
    loss[None][torch.tensor([True])].item()  # it does see what it is meant to see
    waits.__exit__(None, None, None)
    assert waits.seen == ["aten.index", "aten._local_scalar_dense"]
