"""From a plain checkpoint to a SpaceVLLM one: what travels with it, and what is refused."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from spacevllm_plugin.backbones.upgrade import upgrade_config


def test_the_anchors_learned_temperature_travels_with_the_model(make_engine, tmp_path):
    engine = make_engine("qwen3_vl", space_decoder_attention="scaled")
    scale = engine.model.space_decoder.scaled_states.log_scale
    assert scale.tolist() == [0.0]  # fresh on a plain backbone
    scale.data.fill_(0.25)
    engine.model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert again.space_decoder.scaled_states.log_scale.tolist() == [0.25]


def test_options_that_shape_the_model_travel_with_it(make_engine, tmp_path):
    engine = make_engine(
        "qwen3_vl",
        space_decoder_attention="projected",
        space_decoder_mlp_layers=2,
        staq_num_queries=5,
        box_anchor="none",
    )
    engine.model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert again.staq_embedding.weight.shape[0] == 6 and len(again.space_decoder.mlp.layers) == 2
    assert again.space_decoder.projections is not None and again.space_decoder.box_anchor == "none"
    assert all(torch.equal(p, engine.model.state_dict()[name]) for name, p in again.state_dict().items())


def test_an_unknown_backbone_is_a_clear_error(tmp_path):
    from transformers import Qwen2Config

    from spacevllm_plugin.integration.engine_loader import load_engine

    with pytest.raises(
        ValueError, match=r"no backbone for this config \(model type `qwen2`\); it has: .*llava_onevision, "
    ):
        upgrade_config(Qwen2Config(), {"staq_token_id": 0})

    Qwen2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model type `qwen2`\); it has: .*llava_onevision, "):
        load_engine(str(tmp_path))


@pytest.mark.parametrize(
    ("backbone", "template", "right"),
    [
        ("qwen3_vl", "spacevllm", "spacevllm_qwen3_vl"),
        ("qwen3_vl", "spacevllm_qwen2_5_vl", "spacevllm_qwen3_vl"),
        ("qwen2_5_vl", "spacevllm_qwen3_vl", "spacevllm_qwen2_5_vl"),
        ("llava_onevision", "spacevllm_qwen3_vl", "spacevllm"),
    ],
)
def test_a_template_for_another_backbone_is_a_clear_error(tiny_base, backbone, template, right):
    from spacevllm_plugin.integration.engine_loader import load_engine

    with pytest.raises(ValueError, match=f"do not match.*needs `template: {right}`"):
        load_engine(str(tiny_base(backbone)), template=template)


def test_a_spacevllm_model_under_a_foreign_template_is_a_clear_error(make_engine, tmp_path):
    from spacevllm_plugin.integration.engine_loader import load_engine

    engine = make_engine("qwen3_vl")
    engine.model.save_pretrained(tmp_path)
    engine.processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a SpaceVLLM model: it needs `template: spacevllm_qwen3_vl`"):
        load_engine(str(tmp_path), template="qwen3_vl")
