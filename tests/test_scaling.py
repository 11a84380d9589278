"""The arithmetic of docs/scaling.md: counts are those of the models, and the page says what the script does."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import TEMPLATES


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import scaling  # noqa: E402
from gpu.shapes import SHAPES, write_checkpoint  # noqa: E402
from gpu.sizes import sizes_of  # noqa: E402


# As counted on a GPU by `make gpu-check`, where the adapters were peft's own.
COUNTED = {
    "qwen3_vl_4b": (4_451_104_772, 277_530_116),
    "llava_onevision_7b": (8_056_752_164, 348_905_988),
    "qwen2_5_vl_7b": (8_318_111_236, 348_905_988),
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_that_a_gpu_held(name):
    own = scaling.sizes(name)
    assert (own.total, own.lora) == COUNTED[name]


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_trained_is_what_llamafactory_trains(name, kind, tmp_path):
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer

    shape = SHAPES[name]
    write_checkpoint(shape, tmp_path, tiny=True)
    given = {
        "model_name_or_path": str(tmp_path),
        "template": TEMPLATES[shape.backbone],
        "stage": "sft",
        "do_train": True,
        "finetuning_type": kind,
        "train_from_scratch": True,
        "freeze_multi_modal_projector": False,
        "dataset": "any",
        "output_dir": str(tmp_path / "run"),
        "use_cpu": True,
        **({"lora_rank": 8, "lora_target": "all"} if kind == "lora" else {}),
    }
    model_args, _, _, finetuning_args, _ = get_train_args(given)
    model = load_model(load_tokenizer(model_args)["tokenizer"], model_args, finetuning_args, is_trainable=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    own = sizes_of(shape, 8, tiny=True)
    assert sum(parameter.numel() for parameter in trained) == getattr(own, kind)
    assert {parameter.dtype for parameter in trained} == {torch.float32}


def test_figures_are_read_from_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "| a | training step, LoRA | 6607 | 0.828 | 0.842 | 0.984 | 14.55 | 23.97 | 0.61 |\n"
        "| a | `ground` | 16 new | 0.766 | 0.758 | 1.010 | 10.04 | 10.14 | 0.99 |\n"
    )
    assert scaling.measured("a", page) == scaling.Measured(6607, 0.828, 14.55, 0.766)
    with pytest.raises(ValueError, match="has no line of figures for b"):
        scaling.measured("b", page)


def test_the_page_says_what_the_script_does():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert scaling.put_into(page, scaling.report()) == page


SIZES = scaling.Sizes(total=10**9, heads=10**7, full=8 * 10**8, lora=10**8, layers=10, width=100, kv_width=50)


def test_memory_by_hand():
    """Of a model of 1 G parameters, 0.8 G of them trained in full, 0.1 G by LoRA."""
    assert scaling.lora_bytes(SIZES, 1) == 0.99e9 * 2 + 0.1e9 * 16
    assert scaling.lora_bytes(SIZES, 8) == 0.99e9 * 2 + 0.1e9 * 20
    assert scaling.zero2_bytes(SIZES, 8) == 2e9 + 0.8e9 * 14 / 8 + 1e9
    assert scaling.zero3_bytes(SIZES, 8) == pytest.approx(2e9 / 8 + 0.8e9 * 14 / 8 + 2e9)
    assert scaling.fsdp_bytes(SIZES, 8) == pytest.approx((0.2e9 * 2 + 0.8e9 * 16) / 8 + 2 * 0.08e9 * 2)
    assert scaling.stepping_bytes("full, ZeRO-2", SIZES, 8) == 0.8e9 * 4 / 8
    assert scaling.stepping_bytes("full, FSDP", SIZES, 8) == scaling.stepping_bytes("LoRA, DDP", SIZES, 8) == 0
    larger = replace(SIZES, full=8 * 10**9)
    assert [scaling.stepping_bytes("full, ZeRO-3", larger, gpus) for gpus in (1, 16)] == [4e9, 2e9]
    assert scaling.token_bytes(SIZES) == 2 * 10 * 50 * 2


def test_the_network_by_hand():
    """A ring all-reduce sends 2 (n - 1) / n of the data; 8 GPUs take four rows each for a step of 32, 64 take one."""
    assert [scaling.accumulation(gpus) for gpus in scaling.GPUS] == [32, 4, 1, 1]
    assert scaling.sent_bytes("LoRA, DDP", SIZES, 1) == 0
    assert scaling.sent_bytes("LoRA, DDP", SIZES, 8) == pytest.approx(2 * 7 / 8 * 0.4e9)
    assert scaling.sent_bytes("full, ZeRO-2", SIZES, 8) == pytest.approx(7 / 8 * 1.6e9 * (4 + 1))
    assert scaling.sent_bytes("full, ZeRO-3", SIZES, 64) == pytest.approx(63 / 64 * (1.6e9 + 2 * 2e9))
    assert scaling.link(8) == pytest.approx(315e9) and scaling.link(64) == pytest.approx(
        280e9
    )  # eight cards of 50 GB/s, 70 %


def test_speed_lies_between_hidden_and_unhidden(monkeypatch):
    monkeypatch.setattr(scaling, "measured", lambda name: scaling.Measured(1000, 3.0, 20.0, 1.0))
    monkeypatch.setattr(scaling, "sizes", lambda name: SIZES)
    assert scaling.rows_per_second("LoRA, DDP", "a", 1) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    sending = 63 / 64 * 5.6e9 / 280e9
    expected = 64 / 4.0, 64 / (4.0 + sending)
    assert scaling.rows_per_second("full, ZeRO-3", "a", 64) == pytest.approx(expected)
    monkeypatch.setattr(scaling, "ASSUMED", replace(scaling.ASSUMED, network_link=0.1))
    most, least = scaling.rows_per_second("full, ZeRO-3", "a", 64)
    assert most == pytest.approx(64 / (sending * 500)) and least < most
