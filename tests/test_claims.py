"""The scripts that measure: each can be imported. Those of one claim: what they are told on a GPU, sizes, tables; one of them runs."""

import importlib
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import compiled_decoder  # noqa: E402
import frames  # noqa: E402
import gpu_claims  # noqa: E402
import grounding  # noqa: E402
import host_syncs  # noqa: E402
import questions  # noqa: E402
import sentences  # noqa: E402
import training_step  # noqa: E402
from gpu import claims, report, sides  # noqa: E402
from gpu.asked import write_asked  # noqa: E402
from gpu.measuring import Measurement, measured, rows_of, take_turns, unless_out_of_memory  # noqa: E402
from gpu.steps import environment  # noqa: E402

from spacevllm_plugin.inference.engine import row_item  # noqa: E402


SCRIPTS = {
    script.__name__: script
    for script in (compiled_decoder, frames, grounding, host_syncs, questions, sentences, training_step)
}


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_every_script_finds_what_it_imports(script):
    importlib.import_module(script)


class Parsed(Exception):
    """A command line has been understood, and nothing was run."""


@pytest.mark.parametrize("dry", [False, True])
def test_what_the_gpu_is_told_is_understood(dry, tmp_path, monkeypatch):
    (install, *steps) = gpu_claims.plan(
        Path("wheels"), Path("work"), tmp_path, "llava_onevision_7b", list(gpu_claims.CLAIMS), dry
    )
    assert install.name == "install" and [one.name for one in steps] == list(gpu_claims.CLAIMS)
    for one in steps:
        _, script, *told = one.command
        module = SCRIPTS[Path(script).stem]

        def understood(args, **more):
            assert (args.size, args.dry) == (gpu_claims.SIZES.get(one.name, "7b"), dry)
            assert args.shape == gpu_claims.SHAPE_OF.get(one.name, "llava_onevision_7b")
            assert args.out == one.figures
            raise Parsed

        monkeypatch.setattr(module, "setting", understood)
        monkeypatch.setattr(sys, "argv", [script, *told])
        with pytest.raises(Parsed):
            module.main()


def test_sides_take_turns_and_one_without_memory_is_left_out():
    order = []

    def side(name, seconds):
        own = iter(seconds)

        def turn():
            order.append(name)
            second = next(own)
            return Measurement(second, 10 * second) if second else None

        return turn

    taken = take_turns({"ours": side("ours", [1.0, 4.0, 2.0]), "plain": side("plain", [2.0, 2.0, 3.0])}, 3)
    assert order == ["ours", "plain"] * 3
    ours, plain = rows_of(taken, "plain", frames=8)
    assert ours == {
        "frames": 8, "side": "ours", "seconds": 2.0, "spread": 3.0, "peak_gib": 40.0, "outcome": "3 turns",
        "ratio": 1.0, "peak_ratio": 40 / 30,
    }  # fmt: skip
    order.clear()
    taken = take_turns({"ours": side("ours", [1.0, 1.0]), "plain": side("plain", [2.0, None])}, 2)
    ours, plain = rows_of(taken, "plain")
    assert (plain["seconds"], plain["outcome"], ours["seconds"], ours["ratio"]) == (None, "out of memory", 1.0, None)


def test_an_end_of_memory_is_not_an_error_but_others_are():
    assert unless_out_of_memory(lambda: torch.empty(1 << 60, dtype=torch.int8)) is None
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        unless_out_of_memory(lambda: torch.ones(2, 3) @ torch.ones(2, 3))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell a part's peak")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there the device's memory is measured")
def test_a_peak_is_of_what_was_run_and_not_of_what_was_run_before():
    large = measured(lambda: torch.ones(1 << 28, dtype=torch.int8)).peak_gib
    small = measured(lambda: torch.ones(1 << 20, dtype=torch.int8)).peak_gib
    assert 0.2 < large - small < 0.4


def test_a_claim_runs_and_its_table_is_in_the_report(tmp_path):
    out = tmp_path / "grounding.json"
    command = [sys.executable, "benchmarks/grounding.py", "--frames", "8", "--turns", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment(dry=True), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    ours, span, text = found["rows"]
    assert [one["side"] for one in found["rows"]] == ["ground", "plain, span only", "plain, boxes as text"]
    assert ours["new_tokens"] == span["new_tokens"] == 16
    assert text["new_tokens"] > 16 + 8 * found["facts"]["boxes"]
    assert span["ratio"] == 1 and text["seconds"] > span["seconds"]
    step = {"name": "grounding", "outcome": "ok", "seconds": 1.0, "last_line": "", "figures": found}
    page = report.page({"title": "GPU claims", "dry": True, "steps": [step]})
    assert "| ground | " in page and "prompt tokens" in page


def test_a_place_that_waits_is_counted_as_often_as_it_does_in_the_step():
    listener, shown = host_syncs.Listener(), warnings.showwarning

    def wait():
        warnings.warn(f"called a {host_syncs.WORD}", stacklevel=1)  # as torch says it, in whoever calls it

    with warnings.catch_warnings():
        wait()
        listener.on_step_end(None, SimpleNamespace(global_step=host_syncs.STEPS - 1), None)
        for _ in range(3):
            wait()

        with pytest.raises(host_syncs.Heard):
            listener.on_step_end(None, SimpleNamespace(global_step=host_syncs.STEPS), None)

        wait()

    ((place, line, inner),) = listener.places
    assert listener.places.total() == 3 and place == inner
    assert place.startswith("tests/test_claims.py:") and line.startswith("warnings.warn(")
    assert warnings.showwarning is shown


def test_the_plain_side_is_transformers_own_and_the_lean_loss_its_loss(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["any"])
    with claims.setting(claims.command_line("", frames=8).parse_args()) as chosen:
        engine = chosen.trainable()
        row, *_ = write_asked(chosen.work / "data", chosen.side, chosen.frames)
        ours, inputs = sides.training_inputs(engine, row, row_item(engine, row, chosen.work / "data"))
        plain = sides.plain_side(engine.model, chosen.shape.backbone)

    assert ours["input_ids"].shape[1] - inputs["input_ids"].shape[1] == len(ours["box_targets"]) == 8
    stock, lean = plain(**inputs), sides.lean_loss(plain, inputs)
    assert stock.logits.shape[:2] == inputs["input_ids"].shape  # of the whole prompt
    torch.testing.assert_close(lean, stock.loss)
    assert not any(module.__module__.startswith("spacevllm_plugin") for module in plain.modules())


def test_only_the_real_shape_is_computed_in_half_precision(tmp_path):
    small, real = (claims.Setting(size, claims.SHAPE_100M, 48, 8, 1, tmp_path) for size in ("100m", "7b"))
    assert not small.half and small.training_run()["finetuning_type"] == "full" and not small.training_run()["bf16"]
    assert real.half and real.training_run()["finetuning_type"] == "lora" and real.training_run()["bf16"]
