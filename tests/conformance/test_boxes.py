"""Boxes, losses and generation: what every backbone must do alike."""

import copy
import math

import pytest
import torch
from conftest import BACKBONES, CLOSE, collate, prompt, run, staq_id, supervised, user

from spacevllm_plugin.modeling.losses import space_losses


# A random model would end its answer anywhere.
GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


def per_row(engine, inputs, boxes):
    return boxes.split((inputs["input_ids"] == staq_id(engine)).sum(-1).tolist())


@torch.no_grad()
def generate(engine, inputs, **kwargs):
    """New tokens and the boxes of the prefill."""
    sink = []
    output = engine.model.generate(**inputs, box_sink=sink, **{**GREEDY, **kwargs})
    return output[:, inputs["input_ids"].shape[1] :], sink


def test_boxes_and_logits_of_a_prompt_are_the_same_in_any_batch(engine, prompts):
    items = list(prompts(engine).values())
    alone = [run(engine, collate(engine, [item])) for item in items]
    for side in ("left", "right"):
        inputs = collate(engine, items, side, extra=3)
        together = run(engine, inputs)
        boxes = per_row(engine, inputs, together.boxes)
        for item, row, logits, own in zip(items, alone, together.logits, boxes, strict=True):
            real = inputs["attention_mask"][items.index(item)].bool()
            assert torch.allclose(logits[real], row.logits[0], atol=1e-4)
            if row.boxes is None:
                assert len(own) == 0
            else:
                assert torch.allclose(own, row.boxes, **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_a_prompt_alone_changes_nothing(engine, prompts, side):
    """A batch of one takes other ways upstream; and what stands for padding may have an embedding like any other."""
    embedding, pad = engine.model.get_input_embeddings().weight, engine.processor.tokenizer.pad_token_id
    before = embedding.detach()[pad].clone()
    try:
        embedding.data[pad] = embedding.data[pad + 1] + 1
        for item in prompts(engine).values():
            alone, padded = collate(engine, [item]), collate(engine, [item], side, extra=3)
            expected, found = run(engine, alone), run(engine, padded)
            real = padded["attention_mask"][0].bool()
            assert torch.allclose(found.logits[0, real], expected.logits[0], atol=1e-4)
            assert found.boxes is expected.boxes is None or torch.allclose(found.boxes, expected.boxes, **CLOSE)
            if side == "left":
                assert torch.equal(generate(engine, padded)[0], generate(engine, alone)[0])
    finally:
        embedding.data[pad] = before


def test_boxes_differ_between_frames_and_prompts(engine, prompts):
    """Guards the tests above: equal boxes everywhere would pass them."""
    boxes = run(engine, collate(engine, [prompts(engine)["mixed"]])).boxes
    assert torch.cdist(boxes, boxes).fill_diagonal_(1).min() > 1e-3
    assert boxes.dtype == torch.float32 and ((0 < boxes) & (boxes < 1)).all()


def test_training_and_evaluation_give_the_same_loss_and_boxes_as_generation(engine, prompts):
    items = [prompts(engine)[name] for name in ("video", "mixed", "text")]
    batch = supervised(engine, items)
    engine.model.train()
    try:
        trained = run(engine, batch)
    finally:
        engine.model.eval()

    evaluated = run(engine, batch)
    _, (generated,) = generate(engine, collate(engine, items, side="left"))
    for name in ("loss", "loss_lm", "loss_l1", "loss_giou"):
        assert torch.allclose(getattr(trained, name), getattr(evaluated, name), **CLOSE)

    assert trained.logits is None and evaluated.logits is not None
    assert torch.allclose(trained.boxes, evaluated.boxes, **CLOSE)
    assert torch.allclose(trained.boxes, generated, **CLOSE)


def test_the_loss_is_the_sum_of_its_parts(engine, prompts):
    batch = supervised(engine, [prompts(engine)[name] for name in ("video", "image")])
    result = run(engine, batch)
    labels, logits = batch["labels"][:, 1:], result.logits[:, :-1]
    language = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    l1, giou = space_losses(result.boxes, batch["box_targets"])
    assert torch.allclose(result.loss_lm, language, **CLOSE)
    assert torch.allclose(result.loss, language + 5 * l1 + 2 * giou, **CLOSE)


def test_both_losses_are_divided_by_the_accumulated_batchs_counts(engine, prompts):
    items = [prompts(engine)[name] for name in ("video", "image")]
    whole = supervised(engine, items)
    counts = {
        "num_items_in_batch": int((whole["labels"] != -100).sum()),
        "num_boxes_in_batch": int(whole["box_targets"].isfinite().all(-1).sum()),
    }
    targets = per_row(engine, whole, whole["box_targets"])
    parts = [{**supervised(engine, [item]), "box_targets": own} for item, own in zip(items, targets, strict=True)]
    assert torch.allclose(sum(run(engine, part, **counts).loss for part in parts), run(engine, whole).loss, **CLOSE)


def test_every_new_parameter_gets_a_gradient_and_the_vision_tower_too(engine, prompts):
    model = engine.model
    try:
        model.train()
        model(**supervised(engine, [prompts(engine)["mixed"]])).loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.space_decoder.parameters())
        assert model.space_decoder.mlp.layers[0].weight.grad.abs().sum() > 0
        rows = model.staq_embedding.weight.grad.abs().sum(-1) > 0
        frames = [2, 3] if engine.prompter.temporal_patch_size == 1 else [1, 2]  # of the two videos
        assert rows.nonzero()[:, 0].tolist() == [*range(max(frames)), len(rows) - 1]
        tower = getattr(model.model, "visual", None) or model.model.vision_tower
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in tower.parameters())
    finally:
        model.eval()
        model.zero_grad()


def test_a_row_without_any_target_trains_the_language_model_alone(engine, prompts):
    batch = supervised(engine, [prompts(engine)["video"]])
    result = run(engine, {**batch, "box_targets": torch.full_like(batch["box_targets"], math.nan)})
    assert result.loss_l1 == 0 and result.loss_giou == 0 and torch.equal(result.loss, result.loss_lm)
    del batch["box_targets"]
    assert torch.equal(run(engine, batch).loss, result.loss)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_more_frames_than_queries_work(make_engine, media, backbone):
    engine = make_engine(backbone, staq_num_queries=2)
    result = run(engine, collate(engine, [prompt(engine, "<video>Where?", videos=[media["five"]])]))
    assert engine.model.staq_embedding.weight.shape[0] == 3
    assert len(result.boxes) == -(-5 // engine.prompter.temporal_patch_size)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_presence_is_read_at_three_quarters_of_the_depth_and_changes_no_box(make_engine, prompts, backbone):
    engine = make_engine(backbone, presence_head=True)
    model, item = engine.model, prompts(engine)["video"]
    batch = supervised(engine, [item])
    result = run(engine, {**batch, "output_hidden_states": True})
    assert len(result.hidden_states) == 5 and len(result.presence) == len(result.boxes)
    states = result.hidden_states[3][batch["input_ids"] == model.config.staq_token_id]
    expected = model.space_decoder.presence(torch.nn.functional.rms_norm(states, states.shape[-1:]))[:, 0]
    assert torch.equal(result.presence, expected)
    weights = model.loss_options
    parts = result.loss_lm + weights.presence_loss_weight * result.loss_presence
    parts += weights.space_loss_weight * (
        weights.box_l1_weight * result.loss_l1 + weights.box_giou_weight * result.loss_giou
    )
    assert result.loss_presence > 0 and torch.allclose(result.loss, parts)
    assert torch.equal(result.boxes, run(engine, collate(engine, [item])).boxes)
    _, sink = generate(engine, collate(engine, [item]))
    assert torch.allclose(sink[0], result.boxes, **CLOSE)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_presence_keeps_the_states_of_one_layer_only(make_engine, prompts, monkeypatch, backbone):
    """Those of all layers would be gigabytes, in training and in a server's prefill."""
    engine = make_engine(backbone, presence_head=True)
    language_model = engine.model.model.language_model
    forward, asked = language_model.forward, []

    def spied(*args, **kwargs):
        output = forward(*args, **kwargs)
        asked.append(output.hidden_states)
        return output

    monkeypatch.setattr(language_model, "forward", spied)
    batch = supervised(engine, [prompts(engine)["video"]])
    assert run(engine, batch).presence.any() and run(engine, batch).hidden_states is None
    generate(engine, collate(engine, [prompts(engine)["video"]]))
    assert len(asked) == 2 + 6 and not any(asked)
    assert not any(layer._forward_pre_hooks for layer in language_model.layers)


def test_boxes_cost_no_second_prefill_and_no_token(engine, prompts, monkeypatch):
    inputs = collate(engine, [prompts(engine)["video"]])
    lengths, forward = [], engine.model.model.language_model.forward

    def counted(*args, **kwargs):
        lengths.append(kwargs["inputs_embeds"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.model.model.language_model, "forward", counted)
    tokens, sink = generate(engine, inputs)
    assert lengths == [inputs["input_ids"].shape[1]] + [1] * 5
    assert len(sink) == 1
    with torch.no_grad():
        plain = engine.model.generate(**inputs, **GREEDY)

    assert torch.equal(plain[:, inputs["input_ids"].shape[1] :], tokens)


def test_generation_with_a_cache_equals_full_forwards(engine, prompts):
    """Catches wrong positions behind the prompt: each token is also computed from scratch."""
    for item in prompts(engine).values():
        tokens, _ = generate(engine, collate(engine, [item]))
        longer = copy.copy(item)
        object.__setattr__(longer, "token_ids", item.token_ids + tokens[0].tolist())
        logits = run(engine, collate(engine, [longer])).logits[0, len(item.token_ids) - 1 : -1]
        assert logits.isfinite().all()
        # `min_new_tokens` forbids the end of the answer.
        logits[:, [engine.processor.tokenizer.eos_token_id, engine.processor.tokenizer.pad_token_id]] = -math.inf
        logits[:, [engine.model.config.staq_token_id, *engine.model.visual_token_ids]] = -math.inf
        assert logits.argmax(-1).tolist() == tokens[0].tolist()


def test_logits_of_later_steps_equal_those_of_full_forwards(engine, prompts):
    """As above, but to the last decimal: the tokens of a tiny model may agree by chance."""
    items = [prompts(engine)[name] for name in ("video", "text", "mixed")]
    inputs = collate(engine, items)
    with torch.no_grad():
        output = engine.model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)

    for row, item in enumerate(items):
        tokens = output.sequences[row, inputs["input_ids"].shape[1] :]
        longer = copy.copy(item)
        object.__setattr__(longer, "token_ids", item.token_ids + tokens.tolist())
        expected = run(engine, collate(engine, [longer])).logits[0, len(item.token_ids) - 1 : -1]
        assert torch.allclose(torch.stack([step[row] for step in output.logits]), expected, atol=1e-4)


def test_generation_without_a_cache_gives_the_same(engine, prompts):
    inputs = collate(engine, [prompts(engine)["video"]])
    (tokens, (boxes,)), (slow, (again,)) = generate(engine, inputs), generate(engine, inputs, use_cache=False)
    assert torch.equal(tokens, slow) and torch.allclose(boxes, again, **CLOSE)


@pytest.mark.parametrize("names", [("video", "image"), ("mixed", "text"), ("turns", "video")])
@pytest.mark.parametrize(
    "kwargs",
    [{"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 3}],
)
def test_beams_and_several_answers_give_each_prompts_boxes_once(engine, prompts, names, kwargs):
    inputs = collate(engine, [prompts(engine)[name] for name in names])
    tokens, sink = generate(engine, inputs, **kwargs)
    assert len(tokens) == len(names) * kwargs.get("num_return_sequences", 1)
    assert torch.allclose(sink[0], run(engine, inputs).boxes, **CLOSE)


def test_text_only_prompts_need_no_layout_and_yield_no_boxes(engine, prompts):
    inputs = collate(engine, [prompts(engine)["text"]])
    tokens, sink = generate(engine, inputs)
    assert "staq_layout" not in inputs and sink == [] and tokens.shape == (1, 6)
    assert run(engine, inputs).boxes is None


def test_boxes_of_an_earlier_prompt_do_not_leak_into_a_text_only_one(engine, prompts):
    generate(engine, collate(engine, [prompts(engine)["video"]]))
    alone, sink = generate(engine, collate(engine, [prompts(engine)["text"]]))
    assert sink == []
    logits = run(engine, collate(engine, [prompts(engine)["text"]])).logits
    run(engine, collate(engine, [prompts(engine)["mixed"]]))
    assert torch.equal(logits, run(engine, collate(engine, [prompts(engine)["text"]])).logits)


def test_media_without_a_layout_are_an_error_that_names_the_remedy(engine, prompts):
    inputs = collate(engine, [prompts(engine)["video"]])
    del inputs["staq_layout"]
    with pytest.raises(ValueError, match="without `staq_layout`.*template: spacevllm"):
        run(engine, inputs)

    with pytest.raises(ValueError, match="without `staq_layout`"):
        generate(engine, inputs)


@pytest.mark.parametrize("first", ["text", "video"])
def test_new_media_behind_a_cache_are_refused_and_text_is_not(engine, media, first):
    """A second turn that goes on from the first one's cache; the queries of its media would give no boxes."""
    videos = [media["two"]] if first == "video" else []
    turns = [user("<video>" * len(videos) + "What is it?"), {"role": "assistant", "content": "A"}]
    inputs = collate(engine, [prompt(engine, turns[:1], videos=videos)])
    with torch.no_grad():
        output = engine.model.generate(**inputs, **GREEDY, return_dict_in_generate=True)

    inputs = collate(engine, [prompt(engine, [*turns, user("<video>And this?")], videos=[*videos, media["portrait"]])])
    with pytest.raises(ValueError, match="behind what `past_key_values` holds"):
        generate(engine, inputs, past_key_values=output.past_key_values)

    ids = torch.cat([output.sequences, torch.tensor([[5, 6, 7]])], dim=1)
    generate(engine, {"input_ids": ids}, past_key_values=output.past_key_values)


@pytest.mark.parametrize("name", ["text", "video"])
def test_several_tokens_behind_a_cache_are_read_as_in_one_piece(engine, prompts, name):
    item = prompts(engine)[name]
    inputs = collate(engine, [item])
    with torch.no_grad():
        start = engine.model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        ids = torch.cat([start.sequences, torch.tensor([[5, 6, 7, 8]])], dim=1)
        more = engine.model.generate(
            input_ids=ids,
            past_key_values=start.past_key_values,
            **GREEDY,
            return_dict_in_generate=True,
            output_logits=True,
        )

    longer = copy.copy(item)
    object.__setattr__(longer, "token_ids", more.sequences[0].tolist())
    expected = run(engine, collate(engine, [longer])).logits[0, ids.shape[1] - 1 : -1]
    assert torch.allclose(torch.cat(more.logits), expected, atol=1e-4)


def test_pixels_and_prompt_must_agree(engine, prompts):
    inputs = collate(engine, [prompts(engine)["video"]])
    name = "pixel_values" if "pixel_values" in inputs else "pixel_values_videos"
    per_frame = len(inputs[name]) // len(inputs["staq_layout"])
    inputs[name] = inputs[name][:-per_frame]
    if "video_grid_thw" in inputs:
        inputs["video_grid_thw"] = inputs["video_grid_thw"] - torch.tensor([1, 0, 0])

    with pytest.raises(ValueError, match="visual tokens in the prompt but"):
        run(engine, inputs)


def test_the_caption_changes_the_boxes_and_only_through_the_visual_states(engine, media):
    """Queries stand before the caption, so their states cannot know of it; the decoder brings it in."""
    questions = ['<video>Where is "the red circle"?', '<video>Where is "the blue square"?']
    items = [prompt(engine, text, videos=[media["five"]]) for text in questions]
    a, b = (run(engine, collate(engine, [item])).boxes for item in items)
    assert a.shape == b.shape and (a - b).abs().max() > 1e-4

    end = len(items[0].token_ids) - items[0].token_ids[::-1].index(staq_id(engine))
    a, b = (last_states(engine, item)[:end] for item in items)
    assert torch.allclose(a, b, **CLOSE)


def last_states(engine, item, **changed):
    """The language model's last states of one prompt."""
    kept = []
    handle = engine.model.model.language_model.register_forward_hook(
        lambda module, args, output: kept.append(output.last_hidden_state[0])
    )
    run(engine, {**collate(engine, [item]), **changed})
    handle.remove()
    return kept[0]


def test_a_later_frame_does_not_reach_an_earlier_query(engine, media):
    item = prompt(engine, "<video>Where?", videos=[media["five"]])
    inputs = collate(engine, [item])
    name = "pixel_values" if "pixel_values" in inputs else "pixel_values_videos"
    pixels = inputs[name].clone()
    queries = (inputs["input_ids"][0] == staq_id(engine)).nonzero()[:, 0].tolist()
    pixels[-(len(pixels) // len(queries)) :] *= -1  # the last frame
    before, after = last_states(engine, item), last_states(engine, item, **{name: pixels})
    changed = (before - after).abs().amax(-1) > 1e-4
    assert not changed[: queries[-2] + 1].any()
    assert changed[queries[-1]]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_with_the_instruction_first_the_queries_see_it(make_engine, media, backbone):
    engine = make_engine(backbone, instruction_first=True)
    questions = ["<video>Where is the red circle?", "<video>Where is the blue square?"]
    items = [prompt(engine, text, videos=[media["two"]]) for text in questions]
    assert len(items[0].token_ids) == len(items[1].token_ids)
    first = items[0].token_ids.index(staq_id(engine))
    assert not torch.allclose(*(last_states(engine, item)[first] for item in items), atol=1e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_media_given_once_are_those_given_again_and_again(make_engine, media, backbone):
    """Images among videos, one of them in two rows, others in one; no pixel is there twice."""
    engine = make_engine(backbone, instruction_first=True)
    two, five, image, other = media["two"], media["five"], media["image"], media["frames"][0]
    items = [
        prompt(engine, "<video>Where is it?", videos=[two]),
        prompt(engine, "<image>and <video>Which is it?", images=[image], videos=[five]),
        prompt(engine, "<video>When?", videos=[two]),
        prompt(engine, "<image>or <image>or <video>Where?", images=[other, image], videos=[two]),
    ]
    again = collate(engine, items)
    given = [item.token_ids for item in items], [item.images for item in items], [item.videos for item in items]
    once = engine.prompter.model_inputs(*given, once=True)
    pixels = [name for name in once if name.startswith("pixel_values")]
    assert all(len(once[name]) < len(again[name]) for name in pixels)
    assert "media" not in engine.prompter.model_inputs(*(part[:2] for part in given), once=True)
    a, b = run(engine, again), run(engine, {**again, **once})
    assert torch.allclose(a.boxes, b.boxes, atol=1e-6) and torch.allclose(a.logits, b.logits, atol=1e-4)


def test_another_image_between_two_videos_changes_its_own_query_and_none_before(engine, media):
    content = "<video>and <image>and <video>Which?"
    item = prompt(engine, content, [media["image"]], [media["two"], media["five"]])
    other = prompt(engine, content, [media["frames"][0]], [media["two"], media["five"]])
    changed = (last_states(engine, item) - last_states(engine, other)).abs().amax(-1) > 1e-4
    queries = [i for i, token in enumerate(item.token_ids) if token == staq_id(engine)]
    image = collate(engine, [item])["staq_layout"][:, 0].tolist().index(-1)
    assert [bool(changed[position]) for position in queries[: image + 1]] == [False] * image + [True]


def test_ground_batch_gives_each_row_its_own_boxes(engine, synthetic_set):
    from spacevllm_plugin.inference.engine import row_item
    from spacevllm_plugin.inference.grounding import ground_batch

    rows = [synthetic_set.of(task) for task in ("qa", "stvg", "rec", "vtg")] + [synthetic_set.of("stvg", 4)]
    items = [row_item(engine, row, synthetic_set.folder) for row in rows]
    together = ground_batch(engine.model, engine.prompter, items, max_new_tokens=2)
    assert [prediction.id for prediction in together] == [row.id for row in rows]
    for row, item, prediction in zip(rows, items, together, strict=True):
        (alone,) = ground_batch(engine.model, engine.prompter, [item], max_new_tokens=2)
        assert alone.text == prediction.text
        if row.task in ("qa", "vtg"):
            assert prediction.boxes is None
            continue

        assert prediction.frames == ([0] if row.task == "rec" else item.videos[0].frames)
        assert torch.tensor(prediction.boxes).allclose(
            torch.tensor(alone.boxes), atol=0.011
        )  # one hundredth of a pixel
        boxes = run(engine, collate(engine, [item])).boxes
        x = ((boxes[:, 0] - boxes[:, 2] / 2) * 48).clamp(0, 48)
        assert torch.tensor(prediction.boxes)[:, 0].allclose(x, atol=6e-3)
