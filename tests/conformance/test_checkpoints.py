"""Checkpoints of every backbone: saved, loaded, upgraded from a plain base."""

import pytest
import torch
from conftest import BACKBONES, CLOSE, collate, run, staq_id
from runs import TEMPLATES, largest_difference, train, weights, write_data
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from spacevllm_plugin.integration.engine_loader import load_engine


def test_a_saved_model_loads_back_as_itself(engine, prompts, tmp_path):
    engine.model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert type(again) is type(engine.model) and again.config.staq_token_id == staq_id(engine)
    assert again.config.grounding == engine.model.config.grounding is not None
    assert AutoConfig.from_pretrained(tmp_path).model_type.startswith("spacevllm_")
    inputs = collate(engine, [prompts(engine)["mixed"], prompts(engine)["text"]])
    with torch.no_grad():
        before, after = engine.model(**inputs), again(**inputs)

    assert torch.equal(before.logits, after.logits) and torch.equal(before.boxes, after.boxes)


def test_a_plain_base_keeps_its_text_logits(engine, tiny_base, prompts):
    stock = AutoModelForImageTextToText.from_pretrained(tiny_base(engine.template.mm_plugin.backbone)).eval()
    inputs = collate(engine, [prompts(engine)["text"]])
    with torch.no_grad():
        assert torch.allclose(stock(**inputs).logits, run(engine, inputs).logits, **CLOSE)

    ours = engine.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in stock.state_dict().items())
    assert {name.split(".")[0] for name in set(ours) - set(stock.state_dict())} == {"staq_embedding", "space_decoder"}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_fresh_heads_are_initialised(engine, tiny_base, tmp_path, precision):
    """On checkpoints in half precision, too, as the hub has them."""
    base = tiny_base(engine.template.mm_plugin.backbone)
    AutoModelForImageTextToText.from_pretrained(base).to(precision).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(base).save_pretrained(tmp_path)
    model = load_engine(str(tmp_path), presence_head=True, space_decoder_attention="projected").model
    heads = {**dict(model.space_decoder.named_parameters()), "staq": model.staq_embedding.weight}
    assert {value.dtype for value in heads.values()} == {precision}
    for name, value in heads.items():
        assert value.isfinite().all()
        assert (value.abs().max() == 0) if name.endswith("bias") else (0.005 < value.std() < 0.2), name


def test_a_file_names_the_weights_as_the_model_does(engine, tmp_path):
    """Older names would be brought back by each release of transformers in its own way, which others do not read."""
    engine.model.save_pretrained(tmp_path)
    saved, own = weights(tmp_path), engine.model.state_dict()
    assert saved.keys() == own.keys() - {"lm_head.weight"} and engine.model.config.tie_word_embeddings
    assert largest_difference(saved, {name: own[name] for name in saved}) == 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_resumed_full_run_ends_where_the_whole_one_does(tiny_base, synthetic_set, tmp_path, backbone):
    """The trainer looks for the weights of a checkpoint under the model's own names, and takes what it finds."""
    row = synthetic_set.of("stvg").model_dump(exclude_none=True)
    row["videos"] = [str(synthetic_set.folder / path) for path in row["videos"]]
    data = write_data(tmp_path / "data", [row, {**row, "id": "again"}])
    given = {
        "dataset": "rows",
        "template": TEMPLATES[backbone],
        "save_strategy": "steps",
        "save_steps": 2,
        "max_steps": 3,
    }
    train(tiny_base(backbone), data, tmp_path / "whole", **given)
    last = str(tmp_path / "whole" / "checkpoint-2")
    train(tiny_base(backbone), data, tmp_path / "resumed", resume_from_checkpoint=last, **given)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "resumed")) < 1e-6
