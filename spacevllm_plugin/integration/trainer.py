"""The trainer: LLaMA-Factory's own, with exact loss normalisation, logged loss parts and grounding metrics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging

from ..data.jsonl import append_lines, replaced
from ..data.schema import TASKS, AnnotationRow, PredictionRow, dump_row
from ..evaluation import evaluate
from ..inference.engine import Engine, row_prompt, shown
from ..inference.grounding import MAX_NEW_TOKENS
from ..inference.predictor import ground_readable
from ..modeling.configuration import LossOptions
from ..modeling.grounding_model import is_head
from .checkpoint import complete_converted, write_adapter_options
from .muon import use_fp32_on_cpu


LOSS_PARTS = ("loss_lm", "loss_l1", "loss_giou")
PRESENCE_PART = "loss_presence"
GROUNDING_TASKS = tuple(task for task in TASKS if task != "qa")
# Beside LLaMA-Factory's `generated_predictions.jsonl`, which holds texts only, and sampled ones unless told otherwise.
PREDICTIONS = "predictions.jsonl"

logger = logging.get_logger(__name__)


def split_head_groups(optimizer: torch.optim.Optimizer, model: torch.nn.Module, lr: float) -> None:
    """Give the queries and the space decoder parameter groups, and so a learning rate, of their own."""
    heads = {id(p) for name, p in model.named_parameters() if is_head(name)}
    for group in list(optimizer.param_groups):
        own = [p for p in group["params"] if id(p) in heads]
        group["params"] = [p for p in group["params"] if id(p) not in heads]
        if own:
            optimizer.add_param_group({**{k: v for k, v in group.items() if k != "params"}, "params": own, "lr": lr})


def grounding_trainer(base: type) -> type:
    """Our trainer class over LLaMA-Factory's `CustomSeq2SeqTrainer`."""

    class GroundingTrainer(base):
        """Trains on language loss plus space loss.

        Both are averaged over the whole accumulated batch of all ranks, tokens by supervised tokens and boxes by true
        boxes, so that 1 x 8 accumulation steps, a batch of 8 and two ranks with 4 each do the same.
        """

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if self.label_smoother is not None or self.compute_loss_func is not None:
                raise ValueError(
                    "SpaceVLLM has its own loss: unset `label_smoothing_factor` and LLaMA-Factory's losses."
                )

            self.model_accepts_loss_kwargs = True
            self._num_boxes: torch.Tensor | None = None
            presence = self.grounding_model.presence_layer is not None
            self._loss_parts = (*LOSS_PARTS, PRESENCE_PART) if presence else LOSS_PARTS
            self._part_sums = dict.fromkeys(self._loss_parts, 0.0)
            self._parts_logged_at = 0
            self.grounding_model.loss_options = self.options["loss"]

        @property
        def options(self) -> dict[str, Any]:
            return self.data_collator.processor.spacevllm_training

        @property
        def grounding_model(self) -> torch.nn.Module:
            """The SpaceVLLM model below whatever wraps it."""
            model = self.accelerator.unwrap_model(self.model)
            return model.get_base_model() if isinstance(model, PeftModel) else model

        def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
            fresh = self.optimizer is None
            optimizer = super().create_optimizer(*args, **kwargs)
            lr = self.options["space_decoder_lr"]
            if fresh and lr is not None:
                split_head_groups(optimizer, self.model, lr)

            if self.finetuning_args.use_muon and self.args.device.type == "cpu":
                use_fp32_on_cpu()

            return optimizer

        def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
            boxes = torch.zeros((), dtype=torch.float32, device=device)
            for batch in batch_samples:
                if "box_targets" in batch:
                    boxes += torch.isfinite(batch["box_targets"]).all(dim=-1).sum().to(device)

            if self.args.average_tokens_across_devices and self.args.world_size > 1:
                boxes = self.accelerator.gather(boxes).sum()

            self._num_boxes = boxes
            return super()._get_num_items_in_batch(batch_samples, device)

        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            inputs = {**inputs, "num_boxes_in_batch": self._num_boxes}
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            if model.training:
                scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
                for name in self._loss_parts:
                    part = getattr(outputs, name)
                    if part is not None:
                        self._part_sums[name] = self._part_sums[name] + part.detach() * scale

            return (loss, outputs) if return_outputs else loss

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            steps = self.state.global_step - self._parts_logged_at
            if "loss" in logs and steps > 0:
                sums = torch.tensor(
                    [float(self._part_sums[name]) for name in self._loss_parts], device=self.args.device
                )
                means = self.accelerator.gather(sums[None]).mean(dim=0) / steps
                logs.update(dict(zip(self._loss_parts, means.tolist())))
                self._part_sums = dict.fromkeys(self._loss_parts, 0.0)
                self._parts_logged_at = self.state.global_step

            super().log(logs, *args, **kwargs)

        def prediction_step(self, model, inputs, prediction_loss_only, *args: Any, **kwargs: Any):
            if prediction_loss_only:
                # Nobody looks at the logits, and those of a whole prompt are gigabytes.
                inputs = {**inputs, "logits_to_keep": 1}

            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)

        def evaluation_loop(self, dataloader, *args: Any, **kwargs: Any):
            output = super().evaluation_loop(dataloader, *args, **kwargs)
            prefix = kwargs.get("metric_key_prefix", "eval")
            if self.options["grounding_metrics"] and not self.args.predict_with_generate:
                if self._sharded:
                    # A sharded model is scored by `predict` afterwards.
                    return output

                metrics = self._grounding_metrics(dataloader.dataset)
                output.metrics.update({f"{prefix}_{name}": value for name, value in metrics.items()})

            return output

        def save_predictions(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
            super().save_predictions(dataset, *args, **kwargs)
            if self._sharded:
                logger.warning(f"No {PREDICTIONS}: a sharded model is scored by `spacevllm-cli predict` afterwards.")
                return

            _, predictions = self._ground(dataset, TASKS, self._gen_kwargs["max_new_tokens"])
            if self.is_world_process_zero():
                with replaced(Path(self.args.output_dir) / PREDICTIONS) as file:
                    append_lines(file, map(dump_row, predictions))

        @property
        def _sharded(self) -> bool:
            """Whether ranks would have to generate in step."""
            return is_deepspeed_zero3_enabled() or self.is_fsdp_enabled

        @torch.no_grad()
        def _ground(
            self, dataset: Any, tasks: Sequence[str], max_new_tokens: int
        ) -> tuple[list[AnnotationRow], list[PredictionRow]]:
            """Ground the annotation rows of some tasks, greedily; each rank its share, all get the whole, in order."""
            collator = self.data_collator
            prompter = collator.template.mm_plugin.prompter(collator.processor)
            model = self.accelerator.unwrap_model(self.model)
            engine = Engine(model, collator.template, collator.processor, prompter)
            rows, items = [], []
            for example in dataset:
                row = AnnotationRow.model_validate_json(example["annotation"]) if example["annotation"] else None
                if row is not None and row.task in tasks:
                    system, messages = row_prompt(row)
                    media = shown(messages, example["images"] or [], example["videos"] or [])
                    rows.append(row)
                    items.append(engine.item(row.id, row.task, messages, *media, row.media, system))

            was_training = model.training
            model.eval()
            share = items[self.args.process_index :: self.args.world_size]
            size = self.args.per_device_eval_batch_size
            predictions = []
            with self.compute_loss_context_manager(), self.accelerator.autocast():
                for start in range(0, len(share), size):
                    predictions += ground_readable(engine, share[start : start + size], max_new_tokens)

            model.train(was_training)
            if self.args.world_size > 1:
                dumps = gather_object([prediction.model_dump() for prediction in predictions])
                predictions = [PredictionRow.model_validate(dump) for dump in dumps]

            places = {row.id: place for place, row in enumerate(rows)}
            return rows, sorted(predictions, key=lambda prediction: places[prediction.id])

        def _grounding_metrics(self, dataset: Any) -> dict[str, float]:
            """The same numbers that `predict` and `evaluate` would give."""
            rows, predictions = self._ground(dataset, GROUNDING_TASKS, MAX_NEW_TOKENS)
            metrics: dict[str, float] = {}
            for task in dict.fromkeys(row.task for row in rows):
                ours = {row.id for row in rows if row.task == task}
                scores = evaluate(
                    task,
                    [row for row in rows if row.task == task],
                    [prediction for prediction in predictions if prediction.id in ours],
                ).report()["groups"]["all"]
                prefix = "" if task == "stvg" else f"{task}_"
                metrics.update(
                    {f"{prefix}{name}": value for name, value in scores.items() if isinstance(value, float)}
                )

            return metrics

        def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
            super()._save(output_dir, state_dict)
            if isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
                folder = Path(output_dir or self.args.output_dir)
                # LLaMA-Factory puts the adapters that it converts (`pissa_convert`) beside the one it trained.
                for adapter in (folder, *folder.glob("pissa_*")):
                    write_adapter_options(self.grounding_model.config, adapter)

                complete_converted(folder)

    return GroundingTrainer


def training_options(model_args: Any) -> dict[str, Any]:
    """What the trainer needs of the arguments, which it does not get from LLaMA-Factory."""
    weights = {name: getattr(model_args, name) for name in vars(LossOptions())}
    return {
        "loss": LossOptions(**weights),
        "space_decoder_lr": model_args.space_decoder_lr,
        "grounding_metrics": model_args.grounding_metrics,
    }
