"""Running LLaMA-Factory from the tests: in this process where one will do, as commands where it must be real."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from spacevllm_plugin.backbones import registry


TEMPLATES = {spec.name: spec.template for spec in registry.usable()}

BASE = {
    "stage": "sft",
    "finetuning_type": "full",
    "freeze_vision_tower": False,
    "freeze_multi_modal_projector": False,
    "disable_gradient_checkpointing": True,
    "cutoff_len": 2048,
    "overwrite_output_dir": True,
    "overwrite_cache": True,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "learning_rate": 1.0e-3,
    "lr_scheduler_type": "constant",
    "video_maxlen": 6,
    "video_max_pixels": 48 * 48,
    "image_max_pixels": 48 * 48,
    "dataloader_num_workers": 0,
    "disable_shuffling": True,
    "use_cpu": True,
    "seed": 0,
}


def arguments(model: Path, data: Path, out: Path, backbone: str = "qwen3_vl", **overrides) -> dict:
    """Arguments of a short training run."""
    paths = {"model_name_or_path": str(model), "dataset_dir": str(data), "output_dir": str(out)}
    return {**BASE, **paths, "template": TEMPLATES[backbone], "do_train": True, **overrides}


def train(model: Path, data: Path, out: Path, **overrides) -> list[dict]:
    """Train in this process; returns the log."""
    from llamafactory.train.tuner import run_exp

    run_exp(arguments(model, data, out, **overrides))
    return json.loads((out / "trainer_state.json").read_text())["log_history"]


def model_and_batch(run: dict, rows: int) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The model of a training run and its first rows as one batch, by the functions that LLaMA-Factory's `run_sft` calls."""
    from llamafactory.hparams import get_train_args
    from llamafactory.train.sft import workflow

    model_args, data_args, training_args, finetuning_args, _ = get_train_args(dict(run))
    tokenizers = workflow.load_tokenizer(model_args)
    template = workflow.get_template_and_fix_tokenizer(tokenizers["tokenizer"], data_args)
    sets = workflow.get_dataset(template, model_args, data_args, training_args, stage="sft", **tokenizers)
    model = workflow.load_model(tokenizers["tokenizer"], model_args, finetuning_args, training_args.do_train)
    collator = workflow.SFTDataCollatorWith4DAttentionMask(template=template, model=model, **tokenizers)
    return model, collator([sets["train_dataset"][i] for i in range(rows)])


def tokenise(model: Path, data: Path, out: Path, **overrides) -> dict:
    """What LLaMA-Factory's `get_dataset` makes of a data set before a training run."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, *_ = get_train_args(arguments(model, data, out, **overrides))
    parts = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(parts["tokenizer"], data_args)
    return get_dataset(template, model_args, data_args, training_args, stage="sft", **parts)


def command(*args: str, env: dict | None = None, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command of the environment, for instance `llamafactory-cli` or `torchrun`."""
    executable = Path(sys.executable).with_name(args[0])
    path = f"{executable.parent}{os.pathsep}{os.environ['PATH']}"  # where LLaMA-Factory looks for `torchrun`
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(env or {})}
    result = subprocess.run([str(executable), *args[1:]], capture_output=True, text=True, env=environment)
    assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
    return result


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint or an adapter."""
    files = sorted(folder.glob("*.safetensors"))
    assert files, f"no weights in {folder}"
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference between two sets of tensors of the same names."""
    assert a.keys() == b.keys()
    return max((a[name].float() - b[name].float()).abs().max().item() for name in a)


def write_data(folder: Path, rows: list[dict], **sets: dict) -> Path:
    """A dataset_dir with one set called `rows`, and further entries."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    info = {"rows": {"file_name": "rows.jsonl", "formatting": "spacevllm"}, **sets}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder
