"""Hook on `hparams.parser`: our options in YAML, on the command line and in `-h`; what they do not go with is refused."""

from dataclasses import dataclass, field
from functools import wraps
from types import ModuleType
from typing import Any, Literal

from ..modeling.configuration import GroundingOptions, LossOptions
from .template import TEMPLATES


@dataclass
class TrainingOptions:
    """Options of training that do not travel with the checkpoint."""

    space_decoder_lr: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the queries and the space decoder; the run's own if not given."},
    )
    bad_media: Literal["stop", "skip"] = field(
        default="stop",
        metadata={
            "help": (
                "What unusable rows do (media missing or broken, targets outside the video, too long for `cutoff_len`): "
                "stop before the first step and name them all, or be left out and counted."
            )
        },
    )
    frame_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": (
                "Folder on a local disk for the sampled frames of videos after resizing, so that each video is decoded "
                "once for all epochs, rows and runs that see the same frames of it; none if not given."
            )
        },
    )
    frame_cache_gb: float = field(
        default=20.0,
        metadata={
            "help": (
                "Most gigabytes in `frame_cache_dir`. A full cache keeps what this run has used and stores nothing more; "
                "only what other runs have left makes room."
            )
        },
    )
    grounding_metrics: bool = field(
        default=True,
        metadata={"help": "With `do_eval`: ground the evaluation rows too and log m_tIoU, m_vIoU and the like."},
    )


def refuse_unfit(model_args: Any, data_args: Any, finetuning_args: Any) -> None:
    """Refuse what would train or answer without the queries, the boxes or the checks, in one line.

    Raises:
        ValueError: A feature of LLaMA-Factory's was asked for that our templates do not go with.
    """
    if finetuning_args.stage != "sft":
        raise ValueError(f"SpaceVLLM trains with `stage: sft`, not `{finetuning_args.stage}`.")

    if data_args.packing or data_args.neat_packing:
        raise ValueError("SpaceVLLM does not pack: set `packing: false` and `neat_packing: false`.")

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


def install(module: ModuleType) -> None:
    """Extend LLaMA-Factory's model arguments by ours, and its checks of the arguments."""
    verify_model_args = module._verify_model_args

    @wraps(verify_model_args)
    def _verify_model_args(model_args, data_args, finetuning_args):
        if data_args.template in TEMPLATES:
            refuse_unfit(model_args, data_args, finetuning_args)

        verify_model_args(model_args, data_args, finetuning_args)

    @dataclass
    class SpaceVLLMModelArguments(TrainingOptions, LossOptions, GroundingOptions, module.ModelArguments):
        """LLaMA-Factory's model arguments and SpaceVLLM's options."""

        def __post_init__(self) -> None:
            GroundingOptions.__post_init__(self)
            module.ModelArguments.__post_init__(self)

    for arguments in (module._TRAIN_ARGS, module._INFER_ARGS):
        arguments[arguments.index(module.ModelArguments)] = SpaceVLLMModelArguments

    module._verify_model_args = _verify_model_args


def defaults() -> dict[str, Any]:
    """Default of every option that travels with a checkpoint, LLaMA-Factory's media options included."""
    from ..data.plan import Preprocessing

    return {**GroundingOptions().as_dict(), **vars(Preprocessing())}
