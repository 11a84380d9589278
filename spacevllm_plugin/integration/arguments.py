"""Hook on `hparams.parser`: our options in YAML, on the command line and in `-h`."""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from ..modeling.configuration import GroundingOptions, LossOptions


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
        metadata={"help": "Most gigabytes in `frame_cache_dir`; what was unused for the longest time goes first."},
    )
    grounding_metrics: bool = field(
        default=True,
        metadata={"help": "With `do_eval`: ground the evaluation rows too and log m_tIoU, m_vIoU and the like."},
    )


def install(module: ModuleType) -> None:
    """Extend LLaMA-Factory's model arguments by ours."""

    @dataclass
    class SpaceVLLMModelArguments(TrainingOptions, LossOptions, GroundingOptions, module.ModelArguments):
        """LLaMA-Factory's model arguments and SpaceVLLM's options."""

        def __post_init__(self) -> None:
            GroundingOptions.__post_init__(self)
            module.ModelArguments.__post_init__(self)

    for arguments in (module._TRAIN_ARGS, module._INFER_ARGS):
        arguments[arguments.index(module.ModelArguments)] = SpaceVLLMModelArguments


def defaults() -> dict[str, Any]:
    """Default of every option that travels with a checkpoint, LLaMA-Factory's media options included."""
    from ..data.plan import Preprocessing

    return {**GroundingOptions().as_dict(), **vars(Preprocessing())}
