"""Qwen3.5-MoE: checkpoints as the hub has them."""

import json
import math
import shutil

import torch
from runs import weights
from safetensors.torch import save_file
from test_qwen3_5 import HIDDEN, hub_config, hub_shapes
from transformers import AutoConfig, AutoModelForImageTextToText

from spacevllm_plugin.integration.engine_loader import load_engine
from spacevllm_plugin.modeling.grounding_model import HEAD_MODULES


BACKBONE = "qwen3_5_moe"
EXPERTS, CHOSEN, INNER = 4, 2, 24


def moe_config(tokenizer, rows):
    """As published, beside what the dense ones have."""
    config = hub_config(tokenizer, rows, False)
    text, vision = config["text_config"], config["vision_config"]
    del text["intermediate_size"]
    text |= {"model_type": "qwen3_5_moe_text", "moe_intermediate_size": INNER, "num_experts": EXPERTS}
    text |= {"num_experts_per_tok": CHOSEN, "output_router_logits": False, "router_aux_loss_coef": 0.001}
    text["shared_expert_intermediate_size"] = INNER
    vision["model_type"] = "qwen3_5_moe"
    return {**config, "architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe"}


def moe_shapes(rows):
    """Experts fused, as the class has them: (experts, out, in)."""
    dense = hub_shapes(rows, False)
    shapes = {name: shape for name, shape in dense.items() if ".mlp." not in name or ".visual." in name}
    for layer in {name.partition(".mlp.")[0] for name in set(dense) - set(shapes)}:
        mlp = {
            "gate.weight": [EXPERTS, HIDDEN],
            "experts.gate_up_proj": [EXPERTS, 2 * INNER, HIDDEN],
            "experts.down_proj": [EXPERTS, HIDDEN, INNER],
            "shared_expert.gate_proj.weight": [INNER, HIDDEN],
            "shared_expert.up_proj.weight": [INNER, HIDDEN],
            "shared_expert.down_proj.weight": [HIDDEN, INNER],
            "shared_expert_gate.weight": [1, HIDDEN],
        }
        shapes |= {f"{layer}.mlp.{name}": shape for name, shape in mlp.items()}

    return shapes


def test_a_checkpoint_of_the_hub_loads_whole_and_is_saved_under_its_names(tiny_base, tmp_path):
    folder = tmp_path / "hub"
    shutil.copytree(tiny_base(BACKBONE), folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    tokenizer = load_engine(str(tiny_base(BACKBONE))).processor.tokenizer
    rows = AutoConfig.from_pretrained(tiny_base(BACKBONE)).get_text_config().vocab_size
    (folder / "config.json").write_text(json.dumps(moe_config(tokenizer, rows)))
    generator = torch.Generator().manual_seed(0)
    published = {
        name: torch.rand(shape, generator=generator) / math.sqrt(shape[-1]) for name, shape in moe_shapes(rows).items()
    }
    assert sum(name.startswith("mtp.layers.0.mlp.") for name in published) == 7
    save_file(published, folder / "model.safetensors", metadata={"format": "pt"})
    _, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())

    model = load_engine(str(folder), infer_dtype="float32").model
    kept = {name: value for name, value in published.items() if not name.startswith("mtp.")}
    loaded = {name: value for name, value in model.state_dict().items() if name.split(".")[0] not in HEAD_MODULES}
    assert loaded.keys() == kept.keys() and all(torch.equal(loaded[name], value) for name, value in kept.items())

    model.save_pretrained(tmp_path / "saved")  # later releases would write the experts one by one
    saved = {name: value for name, value in weights(tmp_path / "saved").items() if name in kept}
    assert saved.keys() == kept.keys() and all(torch.equal(saved[name], value) for name, value in kept.items())
