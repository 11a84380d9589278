"""The trainer: LLaMA-Factory's own, with exact loss normalisation, logged loss parts and grounding metrics."""

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging

from ..data.jsonl import append_lines
from ..data.output import replaced
from ..inference.engine import Engine
from ..inference.grounding import MAX_NEW_TOKENS
from ..modeling.anchor import ANCHOR_FIGURES
from ..modeling.box_bits import from_bits
from ..modeling.grounding_model import is_head
from .checkpoint import complete_converted, write_adapter_options
from .eval_rows import Answer, EvalRows, GeneratedAnswers
from .loss_parts import keep_parts
from .options import RunOptions


LOSS_PARTS = ("loss_lm", "loss_l1", "loss_giou")
PRESENCE_PART = "loss_presence"
# Beside LLaMA-Factory's `generated_predictions.jsonl`, which holds the texts only.
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


def leave_out_of_ddp(model: torch.nn.Module, unread: list[torch.nn.Module]) -> None:
    """Tell torch's DDP which parameters no step gives a gradient, so that it need not search for such after each."""
    own = {id(parameter) for module in unread for parameter in module.parameters()}
    model._ddp_params_and_buffers_to_ignore = [name for name, p in model.named_parameters() if id(p) in own]


def count_boxes(batches: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
    """True boxes of some batches, (), int64: mixed precision would round a floating-point count too."""
    count = torch.zeros((), dtype=torch.int64, device=device)
    for batch in batches:
        if "box_targets" in batch:
            count += torch.isfinite(from_bits(batch["box_targets"])).all(dim=-1).sum().to(device)

    return count


def grounding_trainer(base: type) -> type:
    """Our trainer class over LLaMA-Factory's `CustomSeq2SeqTrainer`."""

    class GroundingTrainer(base):
        """Trains on language loss plus space loss.

        Both are averaged over the whole accumulated batch of all ranks, tokens by supervised tokens and boxes by true
        boxes, so that 1 x 8 accumulation steps, a batch of 8 and two ranks with 4 each do the same.
        """

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if kwargs["args"].ddp_find_unused_parameters is None:
                kwargs["args"].ddp_find_unused_parameters = False

            super().__init__(*args, **kwargs)
            leave_out_of_ddp(self.model, self.grounding_model.unread_modules)
            if self.label_smoother is not None or self.compute_loss_func is not None:
                raise ValueError(
                    "SpaceVLLM has its own loss: unset `label_smoothing_factor` and LLaMA-Factory's losses."
                )

            self.model_accepts_loss_kwargs = True
            self._num_boxes: torch.Tensor | None = None
            self._num_micro_batches = 1
            presence = (PRESENCE_PART,) if self.grounding_model.presence_layer is not None else ()
            self._loss_parts = (*LOSS_PARTS, *presence, *self.grounding_model.extra_loss_weights)
            self._part_sums = dict.fromkeys(self._loss_parts, 0.0)
            self._anchor_sums = torch.zeros(len(ANCHOR_FIGURES) + 1, device=self.args.device)
            self._parts_logged_at = 0
            self._generated: GeneratedAnswers | None = None
            self._answers: list[Answer] = []  # of the last evaluation, all ranks', in the rows' order
            self.grounding_model.loss_options = self.options.loss
            keep_parts(self.callback_handler.callbacks)

        @property
        def options(self) -> RunOptions:
            """The run's options, which LLaMA-Factory does not hand to trainers."""
            return RunOptions.on(self.data_collator.processor)

        @property
        def grounding_model(self) -> torch.nn.Module:
            """The SpaceVLLM model below whatever wraps it."""
            model = self.accelerator.unwrap_model(self.model)
            return model.get_base_model() if isinstance(model, PeftModel) else model

        def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
            fresh = self.optimizer is None
            optimizer = super().create_optimizer(*args, **kwargs)
            lr = self.options.training.space_decoder_lr
            if fresh and lr is not None:
                split_head_groups(optimizer, self.model, lr)

            return optimizer

        def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
            boxes = count_boxes(batch_samples, device)
            self._num_micro_batches = len(batch_samples)
            if self.args.average_tokens_across_devices and self.args.world_size > 1:
                boxes = self.accelerator.gather(boxes).sum()
                self._num_micro_batches *= self.args.world_size  # every rank takes as many

            self._num_boxes = boxes
            return super()._get_num_items_in_batch(batch_samples, device)

        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            counts = {"num_boxes_in_batch": self._num_boxes, "num_micro_batches": self._num_micro_batches}
            inputs = {**inputs, **counts}
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            if model.training:
                scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
                parts = {**outputs, **(outputs.extra_losses or {})}
                for name in self._loss_parts:
                    part = parts.get(name)
                    if part is not None:  # fp32: FSDP 2 hands out bf16, in which sums soon stop growing
                        self._part_sums[name] = self._part_sums[name] + part.detach().float() * scale

                if outputs.anchor_sums is not None:
                    self._anchor_sums += outputs.anchor_sums

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
                *figures, queries = self.accelerator.gather(self._anchor_sums[None]).sum(dim=0).tolist()
                if queries > 0:  # none without an anchor or a box
                    logs.update({name: figure / queries for name, figure in zip(ANCHOR_FIGURES, figures)})

                self._anchor_sums.zero_()
                self._parts_logged_at = self.state.global_step

            super().log(logs, *args, **kwargs)

        def prediction_step(self, model, inputs, prediction_loss_only, *args: Any, **kwargs: Any):
            if prediction_loss_only:
                # Nobody looks at the logits, and those of a whole prompt are gigabytes.
                inputs = {**inputs, "logits_to_keep": 1}

            if prediction_loss_only or self._generated is None:
                return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)

            # Not by the run's own options, which sample unless told otherwise.
            sink: list[torch.Tensor] = []
            step = super().prediction_step(
                model, inputs, prediction_loss_only, *args, **kwargs, **self._generated.options, box_sink=sink
            )
            self._generated.add(inputs, step[1], sink)
            return step

        def _get_eval_sampler(self, eval_dataset):
            if self.args.predict_with_generate:
                # In any other order, answers would be written beside the questions of other rows.
                return SequentialSampler(eval_dataset)

            return super()._get_eval_sampler(eval_dataset)

        def evaluation_loop(self, dataloader, *args: Any, **kwargs: Any):
            rows = EvalRows(dataloader.dataset)
            self._generated = None
            if self.args.predict_with_generate and not self._sharded:
                self._generated = GeneratedAnswers(
                    self._engine,
                    rows,
                    self.args.eval_batch_size,
                    self._share,
                    self._gen_kwargs.get("max_new_tokens", MAX_NEW_TOKENS),
                )

            output = super().evaluation_loop(dataloader, *args, **kwargs)
            if self._sharded:
                # A sharded model is scored by `predict` afterwards.
                return output

            if self._generated is not None:
                answers = self._generated.answers
            else:
                answers = self._ground(rows) if self.options.training.grounding_metrics else []

            self._answers = sorted(gather_object(answers))
            if self.options.training.grounding_metrics:
                # Early stopping and the choice of the best checkpoint want them on all ranks.
                metrics = [rows.scores(self._answers) if self.is_world_process_zero() else None]
                broadcast_object_list(metrics)
                prefix = kwargs.get("metric_key_prefix", "eval")
                output.metrics.update({f"{prefix}_{name}": value for name, value in metrics[0].items()})

            return output

        def save_predictions(self, *args: Any, **kwargs: Any) -> None:
            super().save_predictions(*args, **kwargs)
            if self._sharded:
                logger.warning(f"No {PREDICTIONS}: a sharded model is scored by `spacevllm-cli predict` afterwards.")
            elif self.is_world_process_zero():
                with replaced(Path(self.args.output_dir) / PREDICTIONS) as file:
                    append_lines(file, (answer.line for answer in self._answers))

        @property
        def _sharded(self) -> bool:
            """Whether ranks would have to generate in step."""
            return is_deepspeed_zero3_enabled() or self.is_fsdp_enabled

        @property
        def _share(self) -> tuple[int, int]:
            return self.args.process_index, self.args.world_size

        @property
        def _engine(self) -> Engine:
            collator = self.data_collator
            prompter = collator.template.mm_plugin.prompter(collator.processor)
            model = self.accelerator.unwrap_model(self.model)
            return Engine(model, collator.template, collator.processor, prompter)

        def _ground(self, rows: EvalRows) -> list[Answer]:
            """This rank's share of the answers."""
            engine, (number, processes) = self._engine, self._share
            positions = rows.grounding(self.options.training.grounding_metrics_rows)
            size = self.args.per_device_eval_batch_size
            was_training = engine.model.training
            engine.model.eval()
            answers = []
            with torch.no_grad(), self.compute_loss_context_manager(), self.accelerator.autocast():
                for batch in islice(rows.batches(positions, size), number, None, processes):
                    answers += rows.ground(engine, batch, MAX_NEW_TOKENS, size)

            engine.model.train(was_training)
            return answers

        def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
            super()._save(output_dir, state_dict)
            if isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
                folder = Path(output_dir or self.args.output_dir)
                # LLaMA-Factory puts the adapters that it converts (`pissa_convert`) beside the one it trained.
                for adapter in (folder, *folder.glob("pissa_*")):
                    write_adapter_options(self.grounding_model.config, adapter)

                complete_converted(folder)

    return GroundingTrainer
