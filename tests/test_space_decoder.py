"""The space decoder against its formula, and the space loss against torchvision."""

import math

import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

from spacevllm_plugin.modeling import space_decoder
from spacevllm_plugin.modeling.anchor import Anchor, anchor_sums
from spacevllm_plugin.modeling.losses import giou_loss, presence_loss, space_losses
from spacevllm_plugin.modeling.space_decoder import SpaceDecoder, look


WIDTH = 8


def decoder(attention="parameter_free", anchor="attention", layers=3, seed=0, width=WIDTH):
    torch.manual_seed(seed)
    model = SpaceDecoder(width, attention, layers, anchor)
    if attention == "scaled":
        model.scaled_states.log_scale.data.fill_(0.5)  # away from its start, or a formula without it would pass

    return model


def inputs(seed=1, queries=3, visual=6, caption=4):
    torch.manual_seed(seed)
    return {
        "queries": torch.randn(queries, WIDTH),
        "visual": torch.randn(queries, visual, WIDTH),
        "visual_mask": torch.ones(queries, visual, dtype=torch.bool),
        "centers": torch.rand(queries, visual, 2),
        "caption": torch.randn(queries, caption, WIDTH),
        "caption_mask": torch.ones(queries, caption, dtype=torch.bool),
        "queries_per_caption": [1] * queries,
    }


def by_the_formula(model, q, V, T, centers, anchor):
    """PAPER.md's formulas for one frame, with loops where the module has batches."""
    scale, maps = math.sqrt(WIDTH), model.projections
    project = (lambda name, x: x) if maps is None else lambda name, x: x @ maps[name].weight.T + maps[name].bias
    sharp, unit = 1, lambda x: x
    if model.scaled_states is not None:
        sharp, unit = math.exp(model.scaled_states.log_scale.item()), lambda x: x / x.pow(2).mean().sqrt()

    enhanced = []
    for v in V:
        scores = torch.stack([project("visual_query", v) @ project("caption_key", t) / scale for t in T])
        enhanced.append(v + sum(w * t for w, t in zip(torch.softmax(scores, 0), T)))

    query = sharp * unit(project("staq_query", q))
    scores = torch.stack([query @ unit(project("visual_key", v)) / scale for v in enhanced])
    weights = torch.softmax(scores, 0)
    x = q + sum(w * v for w, v in zip(weights, enhanced))
    for i, layer in enumerate(model.mlp.layers):
        x = x @ layer.weight.T + layer.bias
        x = x.clamp(min=0) if i < len(model.mlp.layers) - 1 else x

    if anchor == "attention":
        reference = sum(w * c for w, c in zip(weights, centers))
        x = x + torch.cat([torch.log(reference / (1 - reference)), torch.zeros(2)])

    return torch.sigmoid(x)


def decode(model, visual, **given):
    """With frames of their own as the states of all tokens."""
    places = torch.arange(visual.shape[0] * visual.shape[1]).view(visual.shape[:2])
    return model(states=visual.flatten(0, 1), visual=places, **given)


def boxes_of(model, **given):
    boxes, presence, _ = decode(model, **given)
    assert presence is None
    return boxes


@pytest.mark.parametrize("attention", ["parameter_free", "scaled", "projected"])
@pytest.mark.parametrize("anchor", ["attention", "none"])
@pytest.mark.parametrize("layers", [1, 3])
def test_boxes_follow_the_formula(attention, anchor, layers):
    model, given = decoder(attention, anchor, layers), inputs()
    boxes = boxes_of(model, **given)
    for i in range(3):
        expected = by_the_formula(
            model, given["queries"][i], given["visual"][i], given["caption"][i], given["centers"][i], anchor
        )
        assert torch.allclose(boxes[i], expected, atol=1e-6)


def test_one_patch_by_hand():
    """One patch and one caption token: both attentions are certain, so V' = v + t and q' = q + v + t."""
    model = SpaceDecoder(2, "parameter_free", 1, "attention")
    model.mlp.layers[0].weight.data = torch.tensor([[1.0, 0], [0, 1.0], [1.0, 1.0], [0, 0]])
    model.mlp.layers[0].bias.data.zero_()
    true = torch.ones(1, 1, dtype=torch.bool)
    box = boxes_of(
        model,
        queries=torch.tensor([[0.1, 0.2]]),
        visual=torch.tensor([[[1.0, -1.0]]]),
        visual_mask=true,
        centers=torch.tensor([[[0.25, 0.5]]]),
        caption=torch.tensor([[[0.5, 0.5]]]),
        caption_mask=true,
        queries_per_caption=[1],
    )
    x, y = 0.1 + 1.0 + 0.5, 0.2 - 1.0 + 0.5
    expected = [x + math.log(0.25 / 0.75), y, x + y, 0.0]
    assert box[0].tolist() == pytest.approx([1 / (1 + math.exp(-value)) for value in expected], abs=1e-6)


def test_the_anchor_alone_puts_the_box_on_the_patch_attended_to():
    """With a silent MLP the box's centre is the attended patch's centre, whatever the grid."""
    model, given = decoder(), inputs(queries=1)
    for layer in model.mlp.layers:
        layer.weight.data.zero_()
        layer.bias.data.zero_()

    given["queries"] = 100 * given["visual"][:, 2]  # sees nothing but patch 2
    given["caption_mask"][:] = False
    box = boxes_of(model, **given)[0]
    assert torch.allclose(box[:2], given["centers"][0, 2], atol=1e-3)
    assert box[2:].tolist() == [0.5, 0.5]


def test_the_anchor_adds_no_parameter_and_parameter_free_means_the_mlp_only():
    names = {name.split(".")[0] for name, _ in decoder().named_parameters()}
    assert names == {"mlp"}
    assert {n for n, _ in decoder(anchor="none").named_parameters()} == {n for n, _ in decoder().named_parameters()}
    assert sum("projections" in name for name, _ in decoder("projected").named_parameters()) == 8


@pytest.mark.parametrize("attention", ["parameter_free", "scaled", "projected"])
def test_padding_of_patches_and_captions_changes_nothing(attention):
    model, given = decoder(attention), inputs()
    padded = dict(given)
    for name, mask in (("visual", "visual_mask"), ("caption", "caption_mask")):
        padded[name] = torch.cat([given[name], 1e3 * torch.ones(3, 5, WIDTH)], dim=1)
        padded[mask] = torch.cat([given[mask], torch.zeros(3, 5, dtype=torch.bool)], dim=1)

    padded["centers"] = torch.cat([given["centers"], torch.full((3, 5, 2), 0.99)], dim=1)
    assert torch.allclose(boxes_of(model, **given), boxes_of(model, **padded), atol=1e-6)


def test_an_empty_caption_leaves_the_patches_as_they_are():
    model, given = decoder(), inputs()
    given["caption_mask"][0] = False
    boxes = boxes_of(model, **given)
    nothing = torch.zeros(1, WIDTH)  # one caption token of zeros adds zero to every patch
    expected = by_the_formula(
        model, given["queries"][0], given["visual"][0], nothing, given["centers"][0], anchor="attention"
    )
    assert torch.allclose(boxes[0], expected, atol=1e-6)
    assert torch.allclose(boxes[1:], boxes_of(model, **inputs())[1:], atol=1e-6)


@pytest.mark.parametrize("attention", ["parameter_free", "projected"])
def test_queries_that_share_a_caption_need_it_once(attention):
    """Boxes and gradients are those of a copy for each query."""
    sizes = [2, 0, 3, 1]  # a caption that nobody wants as well
    results = []
    for copied in (True, False):
        model, given = decoder(attention), inputs(queries=6)
        given |= {name: value[:4] for name, value in given.items() if name.startswith("caption")}
        given["caption_mask"] = torch.arange(4) < torch.tensor([[4], [1], [2], [3]])
        once = given["caption"].requires_grad_()
        if copied:
            own = torch.arange(4).repeat_interleave(torch.tensor(sizes))
            given |= {"caption": once[own], "caption_mask": given["caption_mask"][own]}

        boxes = boxes_of(model, **{**given, "queries_per_caption": [1] * 6 if copied else sizes})
        boxes.square().sum().backward()
        results.append([boxes, once.grad, *(p.grad for p in model.parameters())])

    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))
    assert results[0][1][0].any() and not results[0][1][1].any()


@pytest.mark.parametrize("attention", ["parameter_free", "scaled"])
def test_frames_in_parts_are_frames_at_once(attention, monkeypatch):
    """Boxes, anchors and gradients, and no part reaches over the end of its caption's frames."""
    results, most = [], []
    for tokens in (4096, 12):  # two frames of six patches
        monkeypatch.setattr(space_decoder, "TOKENS_AT_ONCE", tokens)
        model, given = decoder(attention), inputs(queries=8)
        given |= {name: value[:3] for name, value in given.items() if name.startswith("caption")}
        leaves = [given[name].requires_grad_() for name in ("queries", "visual", "caption")]
        given["queries_per_caption"] = [5, 0, 3]
        parts = []
        with monkeypatch.context() as patch:
            patch.setattr(space_decoder, "look", lambda *given, own=look: parts.append(len(given[0])) or own(*given))
            decoded = decode(model, **given)
            forward = list(parts)
            (decoded.boxes.square().sum() + decoded.anchor.center.sum()).backward()

        most.append(forward)
        gradients = [leaf.grad for leaf in leaves] + [parameter.grad for parameter in model.parameters()]
        results.append([decoded.boxes, decoded.anchor.entropy, *gradients])

    assert most == [[5, 3], [2, 2, 1, 2, 1]]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


def saved_bytes(model, given):
    """What the decoder keeps for its backward pass, beside its inputs and weights."""
    known = [*given.values(), *model.parameters()]
    known = {tensor.untyped_storage().data_ptr() for tensor in known if torch.is_tensor(tensor)}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**given).boxes.sum().backward()

    return sum(size for place, size in kept.items() if place not in known)


def test_no_fp32_copy_of_the_visual_tokens_is_kept_for_the_backward_pass():
    """Eight sentences about 8 frames of 400 patches: less is kept than one copy of the frames in fp32."""
    width, sentences, frames, patches = 64, 8, 8, 400
    model, count = decoder(width=width), sentences * frames
    states = torch.randn(frames * patches, width, dtype=torch.bfloat16, requires_grad=True)
    given = {
        "queries": torch.randn(count, width, dtype=torch.bfloat16),
        "states": states,
        "visual": torch.arange(frames * patches).view(frames, patches).repeat(sentences, 1),
        "visual_mask": torch.ones(count, patches, dtype=torch.bool),
        "centers": torch.rand(count, patches, 2),
        "caption": torch.randn(sentences, 5, width, dtype=torch.bfloat16),
        "caption_mask": torch.ones(sentences, 5, dtype=torch.bool),
        "queries_per_caption": [frames] * sentences,
    }
    assert saved_bytes(model, given) < 4 * states.numel()
    assert states.grad.any()


@pytest.mark.parametrize("attention", ["scaled", "projected"])
def test_compiled_it_gives_the_same_boxes(attention):
    """Traced into one graph for each batch's shape; `aot_eager` needs no compiler on the machine."""
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model, given = decoder(attention), inputs()
        queries = given["queries"].requires_grad_()
        decoded = decode(torch.compile(model, backend="aot_eager") if compiled else model, **given)
        decoded.boxes.square().sum().backward()
        results.append([decoded.boxes, decoded.anchor.center, queries.grad, *(p.grad for p in model.parameters())])

    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


def test_the_caption_matters():
    model, given = decoder(), inputs()
    assert not torch.allclose(
        boxes_of(model, **given), boxes_of(model, **{**given, "caption": -given["caption"]}), atol=1e-4
    )


def test_computes_in_fp32_under_autocast():
    model, given = decoder("projected"), inputs()
    expected = boxes_of(model, **given)
    with torch.autocast("cpu", torch.bfloat16):
        boxes = boxes_of(model, **given)

    assert boxes.dtype == torch.float32 and torch.equal(boxes, expected)


@pytest.mark.parametrize("attention", ["parameter_free", "scaled", "projected"])
def test_computes_in_fp32_from_bf16_weights_and_states(attention):
    """Only the weights and the states are rounded, nothing in between is."""
    half = decoder(attention).bfloat16()
    same = decoder(attention)
    same.load_state_dict(half.state_dict())
    given = inputs()
    states = {name: given[name].bfloat16() for name in ("queries", "visual", "centers", "caption")}
    boxes = boxes_of(half, **{**given, **states})
    upcast = {**given, **{name: value.float() for name, value in states.items()}}
    assert boxes.dtype == torch.float32 and torch.equal(boxes, boxes_of(same, **upcast))


def test_presence_is_linear_in_the_normalised_earlier_state():
    torch.manual_seed(0)
    model, given = SpaceDecoder(WIDTH, "parameter_free", 1, "attention", presence_head=True), inputs()
    earlier = torch.randn(3, WIDTH)
    boxes, presence, _ = decode(model, **given, earlier=earlier)
    scaled = earlier / earlier.pow(2).mean(dim=-1, keepdim=True).sqrt()
    assert torch.allclose(presence, scaled @ model.presence.weight[0] + model.presence.bias, atol=1e-5)
    assert torch.equal(boxes, decode(model, **given, earlier=2 * earlier)[0])


# The anchor.


def patches(rows, columns):
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([(x + 0.5) / columns, (y + 0.5) / rows], dim=-1).reshape(-1, 2)


def test_states_of_a_real_checkpoints_size_saturate_the_anchor_unless_scaled():
    """Width 2048, RMS 5, 196 patches, of which each query looks a little (a cosine of 0.1) like one."""
    torch.manual_seed(0)
    width, size = 2048, 5.0
    given = {
        "visual": size * torch.randn(4, 196, width),
        "visual_mask": torch.ones(4, 196, dtype=torch.bool),
        "centers": patches(14, 14).expand(4, -1, -1),
        "caption": torch.zeros(4, 1, width),
        "caption_mask": torch.zeros(4, 1, dtype=torch.bool),
        "queries_per_caption": [1] * 4,
    }
    entropy, gradient = {}, {}
    for attention in ("parameter_free", "scaled"):
        model = decoder(attention, layers=1, width=width)
        model.mlp.layers[0].weight.data.zero_()  # leaves the way through the anchor
        if attention == "scaled":
            model.scaled_states.log_scale.data.zero_()  # as it starts

        torch.manual_seed(1)
        queries = (0.1 * given["visual"][:, 7] + size * torch.randn(4, width)).requires_grad_()
        decoded = decode(model, queries=queries, **given)
        decoded.boxes[:, :2].sum().backward()
        entropy[attention], gradient[attention] = decoded.anchor.entropy, queries.grad.norm(dim=-1)

    assert entropy["parameter_free"].max() < 0.01 and entropy["scaled"].min() > 0.3
    assert (gradient["scaled"] > 1000 * gradient["parameter_free"]).all()
    assert model.scaled_states.log_scale.grad.abs() > 0


def test_scaled_starts_as_parameter_free_where_states_have_rms_one():
    given = inputs()
    given["caption_mask"][:] = False  # a caption would change the patches' size
    for name in ("queries", "visual"):
        given[name] = torch.nn.functional.rms_norm(given[name], (WIDTH,))

    model = decoder("scaled")
    model.scaled_states.log_scale.data.zero_()
    assert torch.allclose(boxes_of(model, **given), boxes_of(decoder(), **given), atol=1e-6)


def test_anchor_figures_by_hand():
    """One patch of four certain, all of two alike, a frame of one patch, and a query without a target."""
    weights = torch.tensor([[0.0, 1, 0, 0], [0.5, 0.5, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    anchor = Anchor.of(weights, patches(2, 2).expand(4, -1, -1), mask)
    assert anchor.center[:2].tolist() == [[0.75, 0.25], [0.5, 0.25]]
    assert anchor.entropy.tolist() == pytest.approx([0, 1, 0, 0])
    targets = torch.tensor([[0.75, 0.65, 0.1, 0.1], [0.2, 0.65, 0.1, 0.1], [0.25, 0.25, 1, 1], [math.nan] * 4])
    assert anchor_sums(anchor, targets).tolist() == pytest.approx([1.0, 0.4 + 0.5 + 0.0, 3])


def test_without_an_anchor_there_are_no_figures():
    assert decode(decoder(anchor="none"), **inputs()).anchor is None


# The losses.


def test_presence_loss_by_hand():
    """Two videos of two frames, one without any true box, and an image: only the first video counts."""
    nan = float("nan")
    targets = torch.tensor([[0.5] * 4, [nan] * 4, [nan] * 4, [nan] * 4, [0.5] * 4])
    logits = torch.tensor([math.log(3), math.log(3), 7.0, 7.0, 7.0], requires_grad=True)
    index = torch.tensor([0, 1, 0, 1, -1])
    # Said with probability 3/4: once rightly, once wrongly.
    by_hand = -math.log(0.75) - math.log(0.25)
    assert presence_loss(logits, targets, index, 2).item() == pytest.approx(by_hand / 2)
    assert presence_loss(logits, targets, index).item() == pytest.approx(by_hand / 2)  # boxes: one each
    nothing = presence_loss(logits[2:4], targets[2:4], index[2:4])
    nothing.backward()
    assert nothing.item() == 0 and logits.grad.tolist() == [0.0] * 5


def test_losses_by_hand():
    """A unit of the frame against its left half: L1 .25 + .5, IoU = GIoU = .5; and two apart: GIoU -.5."""
    predicted = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.125, 0.5, 0.25, 1.0]])
    true = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.875, 0.5, 0.25, 1.0]])
    l1, giou = space_losses(predicted, true)
    assert l1.item() == pytest.approx((0.75 + 0.75) / 2)
    assert giou.item() == pytest.approx(((1 - 0.5) + (1 + 0.5)) / 2, abs=1e-5)


def test_giou_is_torchvisions_and_nan_lines_count_for_nothing():
    torch.manual_seed(0)
    boxes, targets = torch.rand(2, 10, 4) * 0.5 + 0.1
    valid = torch.arange(10) % 3 != 0
    given = torch.where(valid[:, None], targets, torch.nan)
    l1, giou = space_losses(boxes, given)
    boxes, targets = boxes[valid], targets[valid]
    matrix = generalized_box_iou(*(box_convert(part, "cxcywh", "xyxy") for part in (boxes, targets)))
    assert l1.item() == pytest.approx((boxes - targets).abs().sum().item() / int(valid.sum()))
    assert giou.item() == pytest.approx((1 - matrix.diagonal()).mean().item(), abs=1e-5)


def test_giou_loss_and_its_gradient_are_torchvisions():
    """Boxes that overlap, that only touch, that lie apart or in each other, and boxes without an area."""
    torch.manual_seed(0)
    low, size = torch.rand(2, 2, 60, 2)
    size[0, :5] = size[1, 3:8] = 0
    low[0, 10:20], size[:, 10:20] = low[1, 10:20] + 0.01, torch.tensor([[[0.5]], [[0.9]]])
    low[0, 20:25] = low[1, 20:25] + size[1, 20:25]
    losses, gradients = [], []
    for function in (giou_loss, generalized_box_iou_loss):
        boxes, targets = torch.cat([low, low + size], dim=-1).requires_grad_().unbind()
        losses.append(function(boxes, targets))
        gradients.append(torch.autograd.grad(losses[-1].sum(), [boxes, targets]))

    assert torch.equal(*losses) and all(torch.equal(a, b) for a, b in zip(*gradients))


def test_sums_are_divided_by_the_whole_batchs_number_of_boxes():
    torch.manual_seed(0)
    boxes, targets = torch.rand(2, 8, 4)
    parts = [space_losses(boxes[s], targets[s], num_boxes=8) for s in (slice(0, 3), slice(3, 8))]
    whole = space_losses(boxes, targets)
    assert torch.allclose(torch.tensor(parts).sum(0), torch.tensor(whole))


def test_gradient_comes_from_the_lines_with_a_target_only():
    boxes = torch.rand(3, 4, requires_grad=True)
    targets = torch.tensor([[math.nan] * 4, [0.5, 0.5, 0.2, 0.2], [0.5, math.nan, 0.2, 0.2]])
    sum(space_losses(boxes, targets)).backward()
    assert (boxes.grad[1] != 0).any() and not boxes.grad[[0, 2]].any()


@pytest.mark.parametrize("num_boxes", [None, 0, 7])
def test_without_any_target_the_loss_is_exactly_zero_and_can_be_backpropagated(num_boxes):
    boxes = torch.tensor([[0.3, 0.3, 0.1, 0.1], [0.5, 0.5, 0.0, 0.0]], requires_grad=True)  # one without area
    l1, giou = space_losses(boxes, torch.full((2, 4), math.nan), num_boxes)
    assert l1.item() == 0 and giou.item() == 0
    (5 * l1 + 2 * giou).backward()
    assert torch.equal(boxes.grad, torch.zeros(2, 4))


def test_losses_are_fp32_under_autocast():
    boxes, targets = torch.rand(2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        l1, giou = space_losses(boxes.bfloat16(), targets)

    assert l1.dtype == giou.dtype == torch.float32
