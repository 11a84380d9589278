"""Tokens that stand for queries and visual tokens need no row in the embedding: some checkpoints have none to spare."""

import math

import pytest
import torch
from conftest import BACKBONES, CLOSE, collate, run, staq_id
from runs import TEMPLATES, train, write_data
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from spacevllm_plugin.integration.engine_loader import load_engine


@pytest.fixture(scope="module", params=BACKBONES)
def tight(request, tiny_base, tmp_path_factory):
    """(backbone, folder of its tiny checkpoint with a row for each token of its tokenizer and no more)."""
    base, out = tiny_base(request.param), tmp_path_factory.mktemp(f"tight_{request.param}")
    model, processor = AutoModelForImageTextToText.from_pretrained(base), AutoProcessor.from_pretrained(base)
    model.resize_token_embeddings(len(processor.tokenizer))
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return request.param, out


@pytest.fixture(scope="module")
def engines(tight, make_engine):
    """The same model with rows to spare and without."""
    backbone, folder = tight
    roomy = make_engine(backbone)
    torch.manual_seed(0)  # the fresh heads'
    return roomy, load_engine(str(folder), infer_dtype="float32")


def test_a_placeholder_takes_an_id_that_no_text_has(engines, tight):
    roomy, model = engines
    rows = model.model.get_input_embeddings().weight.shape[0]
    plain = AutoTokenizer.from_pretrained(tight[1])
    assert len(plain) == rows == staq_id(model) == staq_id(roomy)
    assert staq_id(roomy) < roomy.model.get_input_embeddings().weight.shape[0]


def test_without_a_row_the_same_boxes_and_logits(engines, prompts):
    found = []
    for engine in engines:
        inputs = collate(engine, [prompts(engine)[name] for name in ("mixed", "text", "video")])
        found.append(run(engine, inputs))

    roomy, tight = found
    assert torch.equal(roomy.boxes, tight.boxes)
    assert torch.allclose(roomy.logits[..., : tight.logits.shape[-1]], tight.logits, **CLOSE)


@pytest.mark.parametrize(
    "options", [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 1}, {"num_beams": 2, "use_cache": False}]
)
def test_without_a_row_the_same_answers(engines, prompts, options):
    """What looks the scores of a prompt's tokens up does not find those of the placeholders."""
    roomy, tight = engines
    rows = tight.model.get_input_embeddings().weight.shape[0]
    spare = range(rows, roomy.model.get_input_embeddings().weight.shape[0])
    silent = [*roomy.model.visual_token_ids, *spare]
    answers = []
    for engine, more in ((roomy, {"suppress_tokens": silent}), (tight, {})):
        inputs, sink = collate(engine, [prompts(engine)[name] for name in ("video", "mixed")]), []
        tokens = engine.model.generate(
            **inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, box_sink=sink, **options, **more
        )
        answers.append((tokens, sink[0]))

    assert torch.equal(answers[0][0], answers[1][0]) and torch.equal(answers[0][1], answers[1][1])
    assert answers[1][0][:, -5:].max() < rows


def test_without_a_row_it_learns_and_is_saved(tight, engines, synthetic_set, tmp_path):
    backbone, folder = tight
    rows = [
        {**row.model_dump(exclude_none=True), "videos": [str(synthetic_set.folder / path) for path in row.videos]}
        for row in (synthetic_set.of("stvg"), synthetic_set.of("stvg", 1))
    ]
    data = write_data(tmp_path / "data", rows)
    template = TEMPLATES[backbone]
    log = train(folder, data, tmp_path / "run", dataset="rows", template=template, max_steps=2, train_on_prompt=True)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    again = load_engine(str(tmp_path / "run"), infer_dtype="float32")
    assert staq_id(again) == again.model.config.staq_token_id == staq_id(engines[1])
    assert again.model.get_input_embeddings().weight.shape == engines[1].model.get_input_embeddings().weight.shape


def test_llamafactory_may_give_it_a_row(tight, engines, prompts):
    """`resize_vocab`: nothing but the rows there are changes."""
    torch.manual_seed(0)
    resized = load_engine(str(tight[1]), infer_dtype="float32", resize_vocab=True)
    assert resized.model.get_input_embeddings().weight.shape[0] > staq_id(resized)
    results = [run(engine, collate(engine, [prompts(engine)["mixed"]])) for engine in (engines[1], resized)]
    assert torch.allclose(results[0].boxes, results[1].boxes, **CLOSE)


def test_no_row_learns_from_a_placeholder(engine, prompts):
    """Neither its own nor the one that is looked up instead; through the output, tied weights learn from all."""
    model = engine.model
    try:
        model(**collate(engine, [prompts(engine)["mixed"]])).boxes.sum().backward()
        gradient = model.get_input_embeddings().weight.grad
        assert gradient.any() and not gradient[[staq_id(engine), *model.visual_token_ids, 0]].any()
    finally:
        model.zero_grad()
