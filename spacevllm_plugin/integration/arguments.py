"""Hook on `hparams.parser`: our options in YAML, on the command line and in `-h`; what they do not go with is refused."""

import argparse
from dataclasses import dataclass, field
from functools import wraps
from types import ModuleType
from typing import Any

from ..backbones import registry
from ..modeling.configuration import GroundingOptions, LossOptions
from .options import TrainingOptions


def refuse_unfit(model_args: Any, data_args: Any, finetuning_args: Any) -> None:
    """Refuse what would train or answer without the queries, the boxes or the checks, in one line.

    Raises:
        ValueError: A feature of LLaMA-Factory's was asked for that our templates do not go with.
    """
    if finetuning_args.stage != "sft":
        raise ValueError(f"SpaceVLLM trains with `stage: sft`, not `{finetuning_args.stage}`.")

    if data_args.packing or data_args.neat_packing:
        raise ValueError(
            "SpaceVLLM does not pack rows of different videos, which `packing` would let see each other and `neat_packing` "
            "would fill up to `cutoff_len`: set both to false. Rows about one video share it by `sentences_per_video`."
        )

    if data_args.streaming:
        raise ValueError("SpaceVLLM checks all rows before the first step: set `streaming: false`.")

    if model_args.infer_backend != "huggingface":
        raise ValueError("Only LLaMA-Factory's own engine runs the space decoder: set `infer_backend: huggingface`.")

    for arguments, name in (
        (model_args, "use_unsloth"),
        (model_args, "use_kt"),
        (model_args, "mixture_of_depths"),
        (finetuning_args, "use_mca"),
        (finetuning_args, "use_hyper_parallel"),
    ):
        if getattr(arguments, name):
            raise ValueError(f"SpaceVLLM does not go with `{name}`, which brings model classes of its own: unset it.")


def names_given(parser: Any, args: dict[str, Any] | list[str]) -> list[str]:
    """Names of the options that a recipe or a command line names, their defaults or not.

    Args:
        parser: LLaMA-Factory's parser (an `argparse.ArgumentParser`).
        args: As `read_args` gives them: a recipe's options by name, or a command line.
    """
    if isinstance(args, dict):
        return list(args)

    # argparse fills in a default only where the namespace has no value yet.
    blank = dict.fromkeys((action.dest for action in parser._actions), argparse.SUPPRESS)
    found, _ = parser.parse_known_args(args, argparse.Namespace(**blank))
    return [name for name, value in vars(found).items() if value is not argparse.SUPPRESS]


def install(module: ModuleType) -> None:
    """Extend LLaMA-Factory's model arguments by ours, and its checks of the arguments."""
    parse_args, verify_model_args = module._parse_args, module._verify_model_args

    @wraps(parse_args)
    def _parse_args(parser, args=None, allow_extra_keys=False):
        args = module.read_args(args)
        parsed = parse_args(parser, args, allow_extra_keys)
        for arguments in parsed:
            if isinstance(arguments, SpaceVLLMModelArguments):
                arguments.given = names_given(parser, args)

        return parsed

    @wraps(verify_model_args)
    def _verify_model_args(model_args, data_args, finetuning_args):
        spec = registry.of_template(data_args.template)
        if spec is not None:
            if problem := spec.find_problem():
                raise ValueError(f"template {spec.template}: {problem}.")

            refuse_unfit(model_args, data_args, finetuning_args)
            model_args.backbone = spec.name
            if spec.thought_words is not None and "enable_thinking" not in model_args.given:
                # LLaMA-Factory's default is to think, which takes longer than an answer may be, and boxes do not need it.
                data_args.enable_thinking = False

        verify_model_args(model_args, data_args, finetuning_args)

    @dataclass
    class SpaceVLLMModelArguments(TrainingOptions, LossOptions, GroundingOptions, module.ModelArguments):
        """LLaMA-Factory's model arguments and SpaceVLLM's options.

        Attributes:
            given: Names of the options, of whatever class, that the user gave.
            backbone: The chosen template's; None where the template is none of ours.
            placeholder_ids: See `backbones.upgrade.placeholder_ids`, once there is a tokenizer.
        """

        given: list[str] = field(default_factory=list, init=False)
        backbone: str | None = field(default=None, init=False)
        placeholder_ids: dict[str, int] | None = field(default=None, init=False)

        def __post_init__(self) -> None:
            TrainingOptions.__post_init__(self)
            GroundingOptions.__post_init__(self)
            module.ModelArguments.__post_init__(self)

    for arguments in (module._TRAIN_ARGS, module._INFER_ARGS):
        arguments[arguments.index(module.ModelArguments)] = SpaceVLLMModelArguments

    module._parse_args, module._verify_model_args = _parse_args, _verify_model_args
