"""Several sentences about one video in one sequence: the losses and gradients of as many sequences, for every backbone."""

import pytest
import torch
from conftest import BACKBONES
from runs import arguments, model_and_batch, tokenise, write_data

from spacevllm_plugin.backbones import registry


# Rows in the order in which groups of them are made, see `data`.
ORDER = (0, 2, 7, 1, 6, 3, 5, 4)
SHARING = [name for name in BACKBONES if registry.get(name).model_class.one_sentence is None]


@pytest.fixture(scope="module")
def data(synthetic_set, tmp_path_factory):
    """Rows of two videos and an image in turn, a question without boxes among them, and text."""
    rows = [row.model_dump(exclude_none=True) for row in synthetic_set.rows]
    about = {}
    for row in rows:
        about.setdefault((row.get("videos") or row["images"])[0], []).append(row)

    videos = [group[:3] for group in about.values() if group[0].get("videos")][:2]
    videos[1] = videos[1][:2]
    one = next(group[0] for group in about.values() if group[0].get("images"))
    question = {"role": "user", "content": "<image>Point out the other one, please."}
    image = [one, {**one, "id": "other", "messages": [question, one["messages"][1]]}]
    text = [{"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": "Red."}]
    mixed = [videos[0][0], videos[1][0], videos[0][1], image[0], {"id": "text", "task": "qa", "messages": text}]
    mixed += [image[1], videos[1][1], videos[0][2]]
    folder = tmp_path_factory.mktemp("sentences") / "data"
    write_data(folder, mixed)
    for name in ("videos", "images"):
        (folder / name).symlink_to(synthetic_set.folder / name)

    return folder


def step(model, batch):
    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    result = model(**batch, num_items_in_batch=40, num_boxes_in_batch=7)
    result.loss.backward()
    names = ("loss", "loss_lm", "loss_l1", "loss_giou", "loss_presence")
    parts = [result[name] for name in names] + list((result.extra_losses or {}).values())
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return torch.stack(parts).detach(), gradients, result


def assert_same(one, other):
    """Losses to 1e-5, gradients to 1e-4 of the largest of each parameter's (some are zero but for rounding)."""
    assert torch.allclose(one[0], other[0], rtol=1e-5, atol=1e-6) and one[0].all()
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert (gradient - other[1][name]).abs().max() <= 1e-4 * gradient.abs().max() + 1e-8, name


@pytest.fixture(scope="module", params=SHARING)
def both(request, tiny_base, data, tmp_path_factory):
    """A model, its rows one by one and grouped; as many boxes as rows have."""
    common = {"dataset": "rows", "backbone": request.param, "presence_head": True, "moe_aux_loss_coef": 2.0}
    out = tmp_path_factory.mktemp("out")
    torch.manual_seed(0)
    run = arguments(tiny_base(request.param), data, out, **common)
    model, alone = model_and_batch(run, 8)
    _, grouped = model_and_batch({**run, "sentences_per_video": 3}, 4)
    return model, alone, grouped


def test_losses_and_gradients_are_those_of_rows_one_by_one(both):
    model, alone, grouped = both
    assert grouped["sentence_ids"].amax(dim=1).tolist() == [3, 2, 2, 0]
    assert "sentence_ids" not in alone and grouped["input_ids"].numel() < 0.85 * alone["input_ids"].numel()
    assert_same(step(model, alone), step(model, grouped))


@torch.no_grad()
def test_boxes_and_scores_of_answers_are_those_of_rows_one_by_one(both):
    model, alone, grouped = both
    model.eval()
    counts = (alone["input_ids"] == model.config.staq_token_id).sum(dim=1).tolist()
    one, other = model(**alone), model(**grouped)
    boxes = one.boxes.split(counts)
    assert torch.allclose(torch.cat([boxes[row] for row in ORDER]), other.boxes, atol=1e-5)
    answers = [logits[labels != -100] for logits, labels in zip(one.logits[:, :-1], alone["labels"][:, 1:])]
    found = other.logits[:, :-1][grouped["labels"][:, 1:] != -100]
    assert torch.allclose(torch.cat([answers[row] for row in ORDER]), found, atol=1e-4)


def test_without_the_mask_a_sentence_would_see_the_others(both):
    """What keeps them apart is what is tested: neither the mask nor the positions could go unnoticed."""
    model, alone, grouped = both
    losses = step(model, alone)[0]
    unmasked = {name: value for name, value in grouped.items() if name != "sentence_ids"}
    assert (step(model, unmasked)[0] - losses)[:2].abs().max() > 1e-3
    if "position_ids" in grouped:
        shifted = {**grouped, "position_ids": grouped["position_ids"] + (grouped["sentence_ids"] > 1)}
        assert (step(model, shifted)[0] - losses)[:2].abs().max() > 1e-5


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name not in SHARING])
def test_a_backbone_that_cannot_share_a_video_says_so(tiny_base, make_engine, data, tmp_path, backbone):
    """Before any row is tokenised; and the model itself, whoever hands it such a batch."""
    run = {"dataset": "rows", "backbone": backbone}
    with pytest.raises(ValueError, match="`sentences_per_video` must be 1 here: .* reads one sentence") as caught:
        tokenise(tiny_base(backbone), data, tmp_path, **run, sentences_per_video=2)

    assert "\n" not in str(caught.value)
    ids = torch.tensor([[5, 6, 7, 8]])
    with pytest.raises(ValueError, match="reads one sentence in a sequence"):
        make_engine(backbone).model(input_ids=ids, sentence_ids=torch.tensor([[0, 1, 2, 2]]))
