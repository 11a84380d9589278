"""What training promises: the same weights however the batch is split, resumed or not, merged or not."""

import json
import sys
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from runs import arguments, command, largest_difference, train, weights, write_data

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set


QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("training") / "base"
    make_tiny("qwen3_vl", out)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight of each: grounding rows, an uneven mixture of all four kinds, and rows that are text alone."""
    folder = tmp_path_factory.mktemp("training") / "data"
    write_set(folder, SynthConfig(num_videos=6, seed=3, tasks=("stvg", "vtg", "rec", "qa")))
    rows = [row.model_dump(exclude_none=True) for row in read_rows(folder / "annotations.jsonl")]
    by_task = {task: [row for row in rows if row["task"] == task] for task in ("stvg", "vtg", "rec", "qa")}
    text = [
        {
            "id": f"text/{i}",
            "task": "qa",
            "messages": [
                {"role": "user", "content": f"What is the colour number {i}? " + "Please tell. " * i},
                {"role": "assistant", "content": "red"},
            ],
        }
        for i in range(6)
    ]
    first = by_task["stvg"][:8]
    # Batches of 8 as two ranks with 4 each see them: the second rank has no video at all.
    second = [*by_task["stvg"][8:10], by_task["vtg"][0], by_task["rec"][0], *text[:4]]
    third = [by_task["qa"][0], by_task["vtg"][1], by_task["rec"][1], text[4], *by_task["stvg"][10:13], text[5]]
    write_data(folder, first + second + third)
    return folder


SPLITS = {"8x1": (8, 1), "1x8": (1, 8)}
# Two ranks of four rows: torch's DDP, and DeepSpeed by the recipes' own configuration. Not ZeRO-3: on CPUs DeepSpeed 0.18.4
# loads some weights of stock LLaMA-Factory's models wrongly too, now and then.
DEEPSPEED = Path(__file__).parents[1] / "examples" / "deepspeed"
RANKS = {
    "2x4": {"ddp_backend": "gloo"},
    # DeepSpeed picks the device and the backend itself.
    "zero2": {"deepspeed": str(DEEPSPEED / "ds_z2_config.json"), "use_cpu": False},
}
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


@pytest.fixture(scope="module")
def split_runs(base, data, tmp_path_factory):
    """Three SGD steps (Adam would turn a rounding error of a tiny gradient into a full step)."""
    out = tmp_path_factory.mktemp("splits")
    common = {"dataset": "rows", "max_steps": 3, "optim": "sgd", "learning_rate": 0.05, "presence_head": True}
    logs = {}
    for name, (batch, accumulation) in SPLITS.items():
        logs[name] = train(
            base,
            data,
            out / name,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            **common,
        )

    launcher = out / "launch.py"
    launcher.write_text(
        "import json, sys\nfrom llamafactory.train.tuner import run_exp\nrun_exp(json.load(open(sys.argv[1])))\n"
    )
    for name, more in RANKS.items():
        if "deepspeed" in more and find_spec("deepspeed") is None:
            continue

        run = arguments(base, data, out / name, per_device_train_batch_size=4, **common, **more)
        (out / f"{name}.json").write_text(json.dumps(run))
        torchrun = ("torchrun", "--standalone", "--nproc-per-node", "2")
        run = command(*torchrun, str(launcher), str(out / f"{name}.json"), env=NO_GPU)
        assert "find_unused_parameters" not in run.stderr, "DDP searches for what there is none of"
        logs[name] = json.loads((out / name / "trainer_state.json").read_text())["log_history"]

    return out, logs


PARTS = ("loss_lm", "loss_l1", "loss_giou", "loss_presence")


@pytest.mark.parametrize("other", ["1x8", *RANKS])
def test_batch_split_changes_nothing(split_runs, other):
    out, logs = split_runs
    if other not in logs:
        pytest.skip("extra `deepspeed`")

    for a, b in zip(logs["8x1"][:3], logs[other][:3]):
        for part in ("loss", *PARTS, "anchor_entropy", "anchor_offset"):
            assert a[part] == pytest.approx(b[part], rel=2e-4), (part, a["step"])

    found = weights(out / other)
    if other == "zero2":  # it does not know that these are tied
        assert torch.equal(found.pop("lm_head.weight"), found["model.language_model.embed_tokens.weight"])

    assert largest_difference(weights(out / "8x1"), found) < 2e-5


def test_training_moved_every_part(split_runs, base):
    out, _ = split_runs
    before, after = weights(base), weights(out / "8x1")
    moved = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    for part in ("visual.blocks", "visual.merger", "language_model.layers", "embed_tokens"):
        assert any(part in name for name in moved), part

    assert any("space_decoder" in name for name in after) and any("staq_embedding" in name for name in after)


def test_the_anchors_health_is_logged_and_means_what_it_says(split_runs):
    _, logs = split_runs
    for entry in logs["8x1"][:3]:
        # Small states of random weights tell no patch from another, so every query looks at the middle.
        assert 0.5 < entry["anchor_entropy"] <= 1 and 0 < entry["anchor_offset"] < 0.5, entry


def test_resumed_run_equals_uninterrupted_run(base, data, tmp_path):
    common = {"dataset": "rows", "max_steps": 4, "per_device_train_batch_size": 4, "lr_scheduler_type": "cosine"}
    train(base, data, tmp_path / "whole", **common)
    train(base, data, tmp_path / "parts", **common, save_strategy="steps", save_steps=2)
    train(
        base,
        data,
        tmp_path / "resumed",
        **common,
        resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"),
    )
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "resumed")) < 1e-6


@pytest.fixture(scope="module")
def lora(base, data, tmp_path_factory):
    """A LoRA run with options away from their defaults, merged by `export`."""
    from llamafactory.train.tuner import export_model

    out = tmp_path_factory.mktemp("lora")
    train(
        base,
        data,
        out / "adapter",
        dataset="rows",
        max_steps=3,
        per_device_train_batch_size=4,
        finetuning_type="lora",
        lora_target="all",
        freeze_vision_tower=True,
        staq_num_queries=5,
        instruction_first=True,
        presence_head=True,
        video_maxlen=6,
        space_decoder_lr=1.0e-2,
    )
    export_model(
        {
            "model_name_or_path": str(base),
            "adapter_name_or_path": str(out / "adapter"),
            "template": "spacevllm_qwen3_vl",
            "export_dir": str(out / "merged"),
            "infer_dtype": "float32",
        }
    )
    return out


def predict(engine, rows, folder):
    from spacevllm_plugin.inference.engine import row_item
    from spacevllm_plugin.inference.grounding import ground_batch

    return ground_batch(engine.model, engine.prompter, [row_item(engine, row, folder) for row in rows], 16)


def logits_and_boxes(engine, rows, folder):
    from spacevllm_plugin.inference.engine import row_item

    items = [row_item(engine, row, folder) for row in rows]
    results = []
    for item in items:
        inputs = engine.prompter.model_inputs([item.token_ids], [item.images], [item.videos])
        with torch.no_grad():
            results.append(engine.model(input_ids=torch.tensor([item.token_ids]), **inputs))

    return [(result.logits, result.boxes) for result in results]


def test_adapter_equals_merged_equals_reloaded(base, data, lora):
    from transformers import AutoModelForImageTextToText

    from spacevllm_plugin.integration.engine_loader import load_engine

    rows = [row for row in read_rows(data / "rows.jsonl") if row.videos or row.images][:6]
    with_adapter = load_engine(str(base), str(lora / "adapter"), infer_dtype="float32")
    merged = load_engine(str(lora / "merged"), infer_dtype="float32")
    # The options of the run came back from the adapter and from the export alike.
    for engine in (with_adapter, merged):
        assert engine.prompter.grounding.staq_num_queries == 5
        assert engine.prompter.grounding.instruction_first
        assert engine.prompter.options.video_maxlen == 6

    expected = logits_and_boxes(with_adapter, rows, data)
    for (logits, boxes), (merged_logits, merged_boxes) in zip(expected, logits_and_boxes(merged, rows, data)):
        torch.testing.assert_close(logits, merged_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(boxes, merged_boxes, atol=1e-5, rtol=1e-4)

    merged.model = AutoModelForImageTextToText.from_pretrained(lora / "merged").eval()
    for (logits, boxes), (plain_logits, plain_boxes) in zip(expected, logits_and_boxes(merged, rows, data)):
        torch.testing.assert_close(logits, plain_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(boxes, plain_boxes, atol=1e-5, rtol=1e-4)

    assert predict(with_adapter, rows, data) == predict(load_engine(str(lora / "merged")), rows, data)


def test_adapter_holds_trained_heads(lora):
    adapter = weights(lora / "adapter")
    heads = {name: tensor for name, tensor in adapter.items() if "staq_embedding" in name or "space_decoder" in name}
    assert heads and all(tensor.numel() > 0 for tensor in heads.values())
    assert not any("lora" in name for name in heads)
    assert not any("visual" in name for name in adapter)
    merged = weights(lora / "merged")
    for name, tensor in heads.items():
        short = name.removeprefix("base_model.model.")
        torch.testing.assert_close(tensor.float(), merged[short].float())


def test_other_architecture_than_the_adapters_is_refused(base, lora):
    from spacevllm_plugin.integration.engine_loader import load_engine

    with pytest.raises(ValueError, match="`staq_num_queries: 7` does not fit this checkpoint"):
        load_engine(str(base), str(lora / "adapter"), staq_num_queries=7)


def test_heads_can_have_their_own_learning_rate(base, data, tmp_path):
    from spacevllm_plugin.integration.trainer import split_head_groups
    from spacevllm_plugin.modeling.queries import STAQEmbedding

    model = torch.nn.ModuleDict({"staq_embedding": STAQEmbedding(2, 4), "body": torch.nn.Linear(4, 4)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    split_head_groups(optimizer, model, 1e-4)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model["staq_embedding"].weight)] == 1e-4
    assert rates[id(model["body"].weight)] == 1e-3
    assert len(rates) == 3


def test_freeze_tuning_trains_the_heads(base, data, tmp_path):
    train(
        base,
        data,
        tmp_path / "frozen",
        dataset="rows",
        max_steps=1,
        per_device_train_batch_size=4,
        finetuning_type="freeze",
        freeze_trainable_layers=1,
        freeze_vision_tower=True,
        freeze_multi_modal_projector=True,
    )
    before, after = weights(base), weights(tmp_path / "frozen")
    moved = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    assert moved and all("layers.3." in name for name in moved)


def test_evaluation_logs_what_predict_and_evaluate_say(base, data, lora, tmp_path):
    """With `do_eval` the grounding scores are logged like LLaMA-Factory's own metrics."""
    from spacevllm_plugin.evaluation import evaluate
    from spacevllm_plugin.integration.engine_loader import load_engine

    log = train(
        lora / "merged",
        data,
        tmp_path / "out",
        dataset="rows",
        eval_dataset="rows",
        max_steps=1,
        learning_rate=0.0,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=5,
        eval_strategy="steps",
        eval_steps=1,
    )
    logged = next(entry for entry in log if "eval_loss" in entry)
    rows = [row for row in read_rows(data / "rows.jsonl") if row.task == "stvg"]
    predictions = predict(load_engine(str(lora / "merged"), infer_dtype="float32"), rows, data)
    scores = evaluate("stvg", rows, predictions).report()["groups"]["all"]
    for name in ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5", "m_sIoU"):
        assert logged[f"eval_{name}"] == pytest.approx(scores[name], abs=1e-4)

    assert {"eval_vtg_mIoU", "eval_rec_Acc@0.5"} <= logged.keys()


def test_muon_in_fp32_does_what_upstream_does_in_bf16():
    from llamafactory.third_party.muon.muon import zeropower_via_newtonschulz5 as upstream

    sys.path.insert(0, str(QUICKSTART))
    from fp32_muon import orthogonalise

    torch.manual_seed(0)
    for shape in ((16, 48), (48, 16)):
        gradient = torch.randn(shape)
        ours = orthogonalise(gradient, 5)
        assert ours.shape == shape and ours.dtype == torch.float32
        assert torch.allclose(ours, upstream(gradient, 5).float(), atol=0.03)
        assert torch.linalg.svdvals(ours).sub(1).abs().max() < 0.5


def test_do_predict_writes_rows_that_evaluate_reads(base, data, lora, tmp_path, capsys, monkeypatch):
    """`do_predict` alone, without training: LLaMA-Factory's own file, and ours with the tubes beside it, of one pass."""
    for package in ("jieba", "nltk", "rouge_chinese"):
        pytest.importorskip(package, reason="LLaMA-Factory's own text scores need it (extra `metrics`)")

    from llamafactory.train.tuner import run_exp

    from spacevllm_plugin.cli.main import main
    from spacevllm_plugin.data.schema import PredictionRow
    from spacevllm_plugin.integration.engine_loader import load_engine
    from spacevllm_plugin.modeling.generation import SpaceVLLMGenerationMixin

    generate, answered = SpaceVLLMGenerationMixin.generate, []

    @wraps(generate)
    def counted(self, **kwargs):
        answered.append(len(kwargs["input_ids"]))
        return generate(self, **kwargs)

    monkeypatch.setattr(SpaceVLLMGenerationMixin, "generate", counted)
    run = arguments(lora / "merged", data, tmp_path / "out", eval_dataset="rows", do_train=False, do_predict=True)
    run_exp({**run, "predict_with_generate": True, "max_new_tokens": 16, "per_device_eval_batch_size": 5})
    rows = list(read_rows(data / "rows.jsonl"))
    assert sum(answered) == len(rows)
    texts = (tmp_path / "out" / "generated_predictions.jsonl").read_text().splitlines()
    predictions = list(read_rows(tmp_path / "out" / "predictions.jsonl", PredictionRow))
    assert [prediction.id for prediction in predictions] == [row.id for row in rows]
    assert [prediction.text for prediction in predictions] == [json.loads(line)["predict"].strip() for line in texts]
    expected = predict(load_engine(str(lora / "merged"), infer_dtype="float32"), rows, data)
    for prediction, other in zip(predictions, expected):
        assert (prediction.text, prediction.status, prediction.frames) == (other.text, other.status, other.frames)
        for box, other_box in zip(prediction.boxes or [], other.boxes or []):
            assert box == pytest.approx(other_box, abs=0.05)

    files = ("--gt", str(data / "rows.jsonl"), "--pred", str(tmp_path / "out" / "predictions.jsonl"))
    assert main(["evaluate", "stvg", *files, "--out", str(tmp_path / "scores.json")]) == 0
    counts = json.loads((tmp_path / "scores.json").read_text())["counts"]
    assert counts["missing"] == counts["failed"] == 0
    assert counts["scored"] + counts["unreadable"] == sum(row.task == "stvg" for row in rows)
    scores = json.loads((tmp_path / "scores.json").read_text())["groups"]["all"]
    assert json.loads((tmp_path / "out" / "predict_results.json").read_text())["predict_m_vIoU"] == scores["m_vIoU"]


@pytest.mark.parametrize("on_prompt", [False, True])
def test_placeholders_are_never_learned(base, data, tmp_path, on_prompt):
    """`train_on_prompt` puts a label on every token of the prompt; those of frames and queries are no text."""
    from llamafactory.hparams import get_train_args
    from llamafactory.train.sft import workflow

    args = arguments(base, data, tmp_path / "out", dataset="rows", max_samples=1, train_on_prompt=on_prompt)
    model_args, data_args, training_args, *_ = get_train_args(args)
    tokenizers = workflow.load_tokenizer(model_args)
    template = workflow.get_template_and_fix_tokenizer(tokenizers["tokenizer"], data_args)
    (row,) = workflow.get_dataset(template, model_args, data_args, training_args, stage="sft", **tokenizers)[
        "train_dataset"
    ]
    names = ("<|staq|>", "<|video_pad|>", "<|im_start|>")
    query, visual, turn = tokenizers["tokenizer"].convert_tokens_to_ids(names)
    learned = {token for token, label in zip(row["input_ids"], row["labels"]) if label != -100}
    assert {query, visual, turn} <= set(row["input_ids"])
    assert not {query, visual} & learned
    assert (turn in learned) == on_prompt


def test_llamafactorys_accuracy_goes_with_our_losses(base, data, tmp_path):
    log = train(
        base,
        data,
        tmp_path / "out",
        dataset="rows",
        eval_dataset="rows",
        max_samples=4,
        max_steps=1,
        compute_accuracy=True,
        grounding_metrics=False,
        presence_head=True,
        per_device_eval_batch_size=4,
        eval_strategy="steps",
        eval_steps=1,
    )
    accuracy = next(entry["eval_accuracy"] for entry in log if "eval_accuracy" in entry)
    assert 0 <= accuracy <= 1


def test_evaluation_computes_no_logits_that_nobody_asked_for(base, data, tmp_path, monkeypatch):
    from spacevllm_plugin.backbones.qwen3_vl.model import SpaceVLLMQwen3VLForConditionalGeneration as Model

    forward, positions = Model.forward, []

    @wraps(forward)
    def watched(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if output.logits is not None:
            positions.append(output.logits.shape[1])

        return output

    monkeypatch.setattr(Model, "forward", watched)
    common = {"dataset": "rows", "eval_dataset": "rows", "max_samples": 4, "max_steps": 1, "grounding_metrics": False}
    log = train(base, data, tmp_path / "out", **common, eval_strategy="steps", eval_steps=1)
    assert any("eval_loss" in entry for entry in log)
    assert positions and set(positions) == {1}


def test_converted_adapter_keeps_the_options(base, data, tmp_path):
    """`pissa_convert` writes the adapter that is to be merged into a folder of its own."""
    from llamafactory.train.tuner import export_model

    train(
        base,
        data,
        tmp_path / "out",
        dataset="rows",
        max_samples=4,
        max_steps=1,
        finetuning_type="lora",
        lora_target="all",
        freeze_vision_tower=True,
        pissa_init=True,
        pissa_iter=4,
        pissa_convert=True,
        instruction_first=True,
        staq_num_queries=5,
    )
    adapter = tmp_path / "out" / "pissa_converted"
    paths = {
        "model_name_or_path": str(base),
        "adapter_name_or_path": str(adapter),
        "export_dir": str(tmp_path / "merged"),
    }
    export_model({**paths, "template": "spacevllm_qwen3_vl", "infer_dtype": "float32"})
    options = json.loads((tmp_path / "merged" / "config.json").read_text())["grounding"]
    assert options["instruction_first"] and options["staq_num_queries"] == 5
    trained, merged = weights(tmp_path / "out"), weights(tmp_path / "merged")
    heads = [name for name in trained if "staq_embedding" in name or "space_decoder" in name]
    assert heads
    for name in heads:
        torch.testing.assert_close(trained[name].float(), merged[name.removeprefix("base_model.model.")].float())
