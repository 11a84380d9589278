"""LoRA on every backbone: all kinds of rows in one batch, saved, resumed, merged."""

import json

import pytest
import torch
from conftest import BACKBONES, collate, run
from runs import TEMPLATES, largest_difference, train, weights, write_data


STEPS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4}
LORA = {"finetuning_type": "lora", "lora_target": "all", "freeze_vision_tower": True, "lr_scheduler_type": "cosine"}


@pytest.fixture(scope="module", params=BACKBONES)
def trained(request, tiny_base, synthetic_set, tmp_path_factory):
    """(backbone, data, folder of a run of four steps with checkpoints, log): every batch has a row of each task."""
    folder = tmp_path_factory.mktemp(f"lora_{request.param}")
    rows = [
        {**row.model_dump(exclude_none=True), column: [str(synthetic_set.folder / path) for path in paths]}
        for index in range(2)
        for task in ("stvg", "vtg", "rec", "qa")
        for row in [synthetic_set.of(task, index)]
        for column, paths in [("videos", row.videos) if row.videos else ("images", row.images)]
    ]
    data = write_data(folder / "data", rows)
    template = TEMPLATES[request.param]
    log = train(tiny_base(request.param), data, folder / "run", dataset="rows", template=template, **LORA, **STEPS)
    return request.param, data, folder, log


def test_every_loss_is_a_number(trained):
    _, _, _, log = trained
    losses = [
        [entry[name] for name in ("loss", "loss_lm", "loss_l1", "loss_giou")] for entry in log if "loss" in entry
    ]
    assert len(losses) == 4 and torch.tensor(losses).isfinite().all() and torch.tensor(losses).min() > 0


def test_a_resumed_run_ends_where_the_whole_one_does(trained, tiny_base):
    backbone, data, folder, _ = trained
    train(
        tiny_base(backbone),
        data,
        folder / "resumed",
        dataset="rows",
        template=TEMPLATES[backbone],
        resume_from_checkpoint=str(folder / "run" / "checkpoint-2"),
        **LORA,
        **STEPS,
    )
    assert largest_difference(weights(folder / "run"), weights(folder / "resumed")) < 1e-6


def test_the_adapter_and_the_merged_model_say_the_same(trained, tiny_base, prompts):
    from llamafactory.train.tuner import export_model

    from spacevllm_plugin.integration.engine_loader import load_engine

    backbone, _, folder, _ = trained
    base, adapter, merged = str(tiny_base(backbone)), str(folder / "run"), folder / "merged"
    names = {"model_name_or_path": base, "adapter_name_or_path": adapter, "template": TEMPLATES[backbone]}
    export_model({**names, "export_dir": str(merged), "infer_dtype": "float32"})
    assert json.loads((merged / "config.json").read_text())["model_type"] == f"spacevllm_{backbone}"

    with_adapter = load_engine(base, adapter, infer_dtype="float32")
    whole, plain = load_engine(str(merged), infer_dtype="float32"), load_engine(base, infer_dtype="float32")
    # The options travel with the adapter and with the merged model, not with the base.
    inputs, again = (collate(one, [prompts(one)["mixed"], prompts(one)["text"]]) for one in (with_adapter, whole))
    a, b, untrained = run(with_adapter, inputs), run(whole, again), run(plain, inputs)
    real = inputs["attention_mask"].bool()
    assert torch.allclose(a.boxes, b.boxes, atol=1e-5) and torch.allclose(a.logits[real], b.logits[real], atol=1e-4)
    assert not torch.allclose(b.logits[real], untrained.logits[real], atol=1e-3)
