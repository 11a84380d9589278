"""Checkpoints of every backbone: saved, loaded, upgraded from a plain base."""

import torch
from conftest import CLOSE, collate, run, staq_id
from transformers import AutoConfig, AutoModelForImageTextToText


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


def test_fresh_heads_are_initialised(engine):
    heads = {**dict(engine.model.space_decoder.named_parameters()), "staq": engine.model.staq_embedding.weight}
    for name, value in heads.items():
        assert value.isfinite().all()
        assert (value.abs().max() == 0) if name.endswith("bias") else (0.005 < value.std() < 0.2), name
