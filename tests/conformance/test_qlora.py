"""QLoRA with the real bitsandbytes, which quantises on a CPU too."""

import pytest
import torch
from runs import TEMPLATES, train, weights, write_data

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.modeling.grounding_model import is_head


bitsandbytes = pytest.importorskip("bitsandbytes", reason="extra `qlora`")


@pytest.mark.parametrize("backbone", TEMPLATES)
def test_quantised_backbone_and_whole_heads(backbone, tmp_path):
    from spacevllm_plugin.inference.engine import row_item
    from spacevllm_plugin.inference.grounding import ground_batch
    from spacevllm_plugin.integration.engine_loader import load_engine

    base, data, out = (tmp_path / name for name in ("base", "data", "adapter"))
    make_tiny(backbone, base)
    write_set(data, SynthConfig(num_videos=4, seed=3, tasks=("stvg", "vtg", "rec", "qa")))
    rows = [row for row in read_rows(data / "annotations.jsonl") if row.task == "stvg"][:4]
    write_data(data, [row.model_dump(exclude_none=True) for row in rows])
    qlora = {"finetuning_type": "lora", "lora_rank": 4, "quantization_bit": 4, "double_quantization": True}
    log = train(
        *(base, data, out),
        **{**qlora, "backbone": backbone, "dataset": "rows", "per_device_train_batch_size": 4, "max_steps": 3},
    )
    losses = [entry["loss_giou"] for entry in log if "loss_giou" in entry]
    assert len(losses) == 3 and losses[-1] < losses[0]  # one batch three times

    engine = load_engine(str(base), str(out), infer_dtype="float32", quantization_bit=4)
    heads = {name: p for name, p in engine.model.named_parameters() if is_head(name)}
    quantised = [name for name, m in engine.model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert any("language_model.layers.0." in name for name in quantised)
    assert not any(is_head(name) for name in quantised)
    saved = {name: tensor for name, tensor in weights(out).items() if is_head(name)}
    assert saved and all(tensor.dtype == torch.float32 for tensor in saved.values())
    trained = {name: p for name, p in heads.items() if "original_module" not in name}
    assert len(trained) == len(saved)
    for name, tensor in saved.items():
        short = name.removeprefix("base_model.model.")
        (loaded,) = (
            p for other, p in trained.items() if other.replace(".modules_to_save.default", "").endswith(short)
        )
        torch.testing.assert_close(loaded, tensor)

    answers = ground_batch(engine.model, engine.prompter, [row_item(engine, row, data) for row in rows], 8)
    assert all(len(answer.boxes) > 0 for answer in answers)
