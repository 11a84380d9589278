"""What half precision, attention kernels and sharding must not change: on a GPU, where alone most of it can be seen.

Skipped where there is no CUDA device. GPU_CHECK_DRY=1 runs the same tests on the CPU, as far as a CPU goes.
"""

import importlib
import json
import os
import shutil
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from conftest import BACKBONES, collate
from runs import TEMPLATES, arguments, command, largest_difference, train, weights, write_data

from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set


DRY = os.environ.get("GPU_CHECK_DRY") == "1"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not DRY and not torch.cuda.is_available(), reason="no CUDA device (GPU_CHECK_DRY=1: on the CPU)"
    ),
]
EXAMPLES = Path(__file__).parents[1] / "examples"
DEVICE = {"use_cpu": DRY}
STEPS = {**DEVICE, "dataset": "rows", "per_device_train_batch_size": 4}
PARTS = ("loss", "loss_lm", "loss_l1", "loss_giou")
# Boxes are shares of the frame: 0.01 is half a pixel of the tiny videos. bf16 keeps three digits, fp16 four.
CLOSE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 3e-2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight rows of all four kinds, so that batches are padded."""
    folder = tmp_path_factory.mktemp("cuda") / "data"
    write_set(folder, SynthConfig(num_videos=3, seed=3, tasks=("stvg", "vtg", "rec", "qa")))
    rows = [row.model_dump(exclude_none=True) for row in read_rows(folder / "annotations.jsonl")]
    first = [[row for row in rows if row["task"] == task][:2] for task in ("stvg", "rec", "vtg", "qa")]
    return write_data(folder, [row for pair in zip(*first) for row in pair])


@pytest.fixture(scope="module")
def trained(tiny_base, data, tmp_path_factory):
    """`trained(backbone)`: a SpaceVLLM checkpoint after two steps in fp32, and its log."""
    done = {}

    def checkpoint(backbone):
        if backbone not in done:
            out = tmp_path_factory.mktemp("cuda") / f"trained_{backbone}"
            done[backbone] = out, train(tiny_base(backbone), data, out, backbone=backbone, max_steps=2, **STEPS)

        return done[backbone]

    return checkpoint


def stored_as(checkpoint, dtype):
    """A copy that loads in another precision: LLaMA-Factory goes by what config.json says, not by `infer_dtype`."""
    copy = checkpoint.with_name(f"{checkpoint.name}_{dtype}")
    if not copy.exists():
        shutil.copytree(checkpoint, copy)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "dtype": dtype}))

    return copy


def load(*folders, dtype="float32", **more):
    from spacevllm_plugin.integration.engine_loader import load_engine

    if dtype in ("float16", "bfloat16"):
        folders = [stored_as(folder, dtype) for folder in folders]

    engine = load_engine(*map(str, folders), infer_dtype=dtype, **more)
    assert engine.model.device.type == ("cpu" if DRY else "cuda")
    assert dtype == "auto" or engine.model.dtype == getattr(torch, dtype)
    return engine


def batch_of(engine, folder):
    """The grounding rows as one left-padded batch, on the engine's device."""
    from spacevllm_plugin.inference.engine import row_item

    items = [row_item(engine, row, folder) for row in read_rows(folder / "rows.jsonl") if row.task in ("stvg", "rec")]
    return {name: value.to(engine.model.device) for name, value in collate(engine, items, "left").items()}


@torch.no_grad()
def boxes_of(engine, folder):
    return engine.model(**batch_of(engine, folder)).boxes


def assert_sound(log, steps):
    logged = [entry for entry in log if "loss_giou" in entry]
    assert len(logged) == steps
    for entry in logged:
        assert all(torch.tensor(entry[part]).isfinite() for part in PARTS), entry


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_half_precision_trains_and_grounds(tiny_base, data, tmp_path, backbone, dtype):
    if DRY and dtype == "float16":
        pytest.skip("accelerate trains in fp16 on GPUs only")

    precision = {"bf16" if dtype == "bfloat16" else "fp16": True}
    base = tiny_base(backbone)
    # More steps than fp16's loss scale takes to come down to where gradients are finite.
    out = tmp_path / "out"
    log = train(base, data, out, backbone=backbone, max_steps=8, **STEPS, **precision)
    assert_sound(log, 8)
    before, after = weights(base), weights(out)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(before[name].float(), after[name].float()) for name in before.keys() & after.keys())
    in_half, in_full = (boxes_of(load(out, dtype=one), data) for one in (dtype, "float32"))
    assert in_half.dtype == torch.float32 and ((0 < in_half) & (in_half < 1)).all()
    assert (in_half - in_full).abs().max() < CLOSE[dtype]


@pytest.mark.parametrize(
    ("kernel", "name", "dtype"), [("sdpa", "sdpa", "float32"), ("fa2", "flash_attention_2", "bfloat16")]
)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_attention_kernels_give_the_same_boxes(trained, data, backbone, kernel, name, dtype):
    if kernel == "fa2" and (DRY or find_spec("flash_attn") is None):
        pytest.skip("extra `flash-attn`, on a GPU")

    checkpoint, _ = trained(backbone)
    plain = load(checkpoint, flash_attn="disabled", dtype=dtype)
    other = load(checkpoint, flash_attn=kernel, dtype=dtype)
    used = [engine.model.config.get_text_config()._attn_implementation for engine in (plain, other)]
    assert used == ["eager", name]
    assert (boxes_of(plain, data) - boxes_of(other, data)).abs().max() < CLOSE[dtype]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_generation_gives_the_boxes_of_a_forward_pass(trained, data, backbone, dtype):
    engine, sink = load(trained(backbone)[0], dtype=dtype), []
    engine.model.generate(**batch_of(engine, data), box_sink=sink, max_new_tokens=4, do_sample=False)
    boxes = boxes_of(engine, data)
    assert torch.cdist(boxes, boxes).fill_diagonal_(1).min() > 1e-4  # equal boxes everywhere would pass the next line
    # The same kernels on the same numbers: far closer than the precision itself.
    assert (sink[0] - boxes).abs().max() < CLOSE[dtype] / 10


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradient_checkpointing_changes_nothing(tiny_base, data, tmp_path, monkeypatch, backbone):
    modeling = importlib.import_module(
        {
            "qwen3_vl": "transformers.models.qwen3_vl.modeling_qwen3_vl",
            "qwen2_5_vl": "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
            "llava_onevision": "transformers.models.qwen2.modeling_qwen2",
        }[backbone]
    )
    layer = next(value for name, value in vars(modeling).items() if name.endswith("DecoderLayer") and "Qwen" in name)
    forward, calls = layer.forward, {"off": 0, "on": 0}

    @wraps(forward)
    def counted(*args, **kwargs):
        calls[side] += 1
        return forward(*args, **kwargs)

    monkeypatch.setattr(layer, "forward", counted)
    logs = {}
    for side in calls:
        logs[side] = train(
            *(tiny_base(backbone), data, tmp_path / side),
            **{"backbone": backbone, "max_steps": 2, "optim": "sgd", "learning_rate": 0.05, **STEPS},
            disable_gradient_checkpointing=side == "off",
        )

    assert calls["on"] == 2 * calls["off"] > 0  # every layer once more, in the backward pass
    for a, b in zip(logs["off"][:2], logs["on"][:2]):
        assert [a[part] for part in PARTS] == pytest.approx([b[part] for part in PARTS], rel=1e-4)

    assert largest_difference(weights(tmp_path / "off"), weights(tmp_path / "on")) < 1e-5


@pytest.mark.parametrize("backbone", BACKBONES)
def test_adapter_equals_merged(tiny_base, data, tmp_path, backbone):
    from llamafactory.train.tuner import export_model

    lora = {"finetuning_type": "lora", "lora_target": "all", "freeze_vision_tower": True, "bf16": True}
    base, adapter, merged = tiny_base(backbone), tmp_path / "adapter", tmp_path / "merged"
    assert_sound(train(base, data, adapter, **{"backbone": backbone, "max_steps": 3, **STEPS, **lora}), 3)
    paths = {"model_name_or_path": base, "adapter_name_or_path": adapter, "export_dir": merged}
    export_model(
        {
            **{name: str(path) for name, path in paths.items()},
            "template": TEMPLATES[backbone],
            "infer_dtype": "float32",
        }
    )
    expected, found = boxes_of(load(base, adapter), data), boxes_of(load(merged), data)
    assert (expected - found).abs().max() < CLOSE["float32"]


# Sharded training of one rank: all of the machinery, and nothing that the unsharded run would not do. Both start from
# one SpaceVLLM checkpoint: a plain backbone's fresh heads are drawn on the GPU or, under FSDP, on the CPU, and differ.


@pytest.fixture(scope="module")
def unsharded(trained, data, tmp_path_factory):
    """`unsharded(**more)`: the log of the run that a sharded one must repeat."""
    out = tmp_path_factory.mktemp("cuda") / "unsharded"
    return lambda **more: train(trained("qwen3_vl")[0], data, out, max_steps=3, **STEPS, **more)


def recipe(folder, **run):
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return str(folder / "run.yaml")


def assert_same_run(out, log, data):
    """The same losses, as closely as bf16 weights follow fp32 ones, and a checkpoint that loads and grounds."""
    sharded = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert_sound(sharded, 3)
    for a, b, tolerance in zip(log, sharded, (0.02, 0.1, 0.1)):  # the first step's come before any update
        assert [a[part] for part in PARTS] == pytest.approx([b[part] for part in PARTS], rel=tolerance), a["step"]

    boxes = boxes_of(load(out, dtype="auto"), data)  # a sharded run may save its weights in bf16
    assert boxes.isfinite().all() and torch.cdist(boxes, boxes).fill_diagonal_(1).min() > 1e-4


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="extra `deepspeed`")
def test_zero3_of_one_rank_is_the_same_run(trained, data, tmp_path, unsharded):
    if DRY:
        pytest.skip("on CPUs DeepSpeed 0.18.4 loads some weights of a ZeRO-3 model wrongly, now and then")

    config = str(EXAMPLES / "deepspeed" / "ds_z3_config.json")
    run = arguments(trained("qwen3_vl")[0], data, tmp_path / "out", max_steps=3, bf16=True, deepspeed=config, **STEPS)
    one_rank = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "1"}
    command("llamafactory-cli", "train", recipe(tmp_path, **run), env=one_rank)
    assert_same_run(tmp_path / "out", unsharded(bf16=True), data)


def test_fsdp_of_one_rank_is_the_same_run(trained, data, tmp_path, unsharded):
    if DRY:
        pytest.skip("LLaMA-Factory takes `pure_bf16`, which FSDP wants, on GPUs only")

    config = yaml.safe_load((EXAMPLES / "accelerate" / "fsdp_config.yaml").read_text())
    (tmp_path / "fsdp.yaml").write_text(yaml.safe_dump({**config, "num_processes": 1}))
    half = {"bf16": True, "pure_bf16": True}  # as the recipe has it; accelerate keeps fp32 masters
    run = arguments(trained("qwen3_vl")[0], data, tmp_path / "out", max_steps=3, **STEPS, **half)
    launch = ("accelerate", "launch", "--config_file", str(tmp_path / "fsdp.yaml"), "-m", "llamafactory.launcher")
    command(*launch, recipe(tmp_path, **run))
    assert_same_run(tmp_path / "out", unsharded(bf16=True), data)
