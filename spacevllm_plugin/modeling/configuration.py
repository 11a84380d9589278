"""What a SpaceVLLM checkpoint carries beyond its backbone's configuration."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal


STAQ_TOKEN = "<|staq|>"


@dataclass
class GroundingOptions:
    """Options that shape the model or its prompts; they travel with every checkpoint and adapter.

    The `help` texts are the ones `llamafactory-cli train -h` shows.
    """

    staq_num_queries: int = field(
        default=64, metadata={"help": "Learned queries for frames (N_v); one more is added for single images."}
    )
    space_decoder_attention: Literal["parameter_free", "scaled", "projected"] = field(
        default="parameter_free",
        metadata={
            "help": (
                "Cross-attention of the space decoder: as in the paper; with the states that place the anchor brought to "
                "one size and a learned temperature, for where the logged `anchor_entropy` stays near 0; or with "
                "learned projections."
            )
        },
    )
    space_decoder_mlp_layers: int = field(default=3, metadata={"help": "Linear layers of the box head."})
    box_anchor: Literal["attention", "none"] = field(
        default="attention",
        metadata={
            "help": "Reference point of a box: the attention-weighted patch centre, or none (the paper's letter)."
        },
    )
    presence_head: bool = field(
        default=False,
        metadata={
            "help": (
                "Let each query also say whether its frame shows what is asked for, from its state at three quarters of "
                "the language model's depth (after Bridge-STG; not the paper's)."
            )
        },
    )
    frame_sampling: Literal["uniform", "fps"] = field(
        default="uniform",
        metadata={
            "help": (
                "Frames shown of a video: `uniform` takes `video_maxlen` of them, `fps` takes `video_fps` a second and "
                "at most `video_maxlen`. Both cover the whole video."
            )
        },
    )
    instruction_first: bool = field(
        default=False, metadata={"help": "Repeat the instruction before the video, so that the queries see it."}
    )
    frame_tokens: Literal["onevision", "llava_video"] = field(
        default="onevision",
        metadata={
            "help": (
                "Visual tokens per frame of a LLaVA backbone: 14x14 bilinear and one newline a video (transformers), "
                "or 13x13 averaged and a newline a row (the original LLaVA-Video)."
            )
        },
    )

    def __post_init__(self) -> None:
        if self.staq_num_queries < 1 or self.space_decoder_mlp_layers < 1:
            raise ValueError("`staq_num_queries` and `space_decoder_mlp_layers` must be at least 1.")

    @classmethod
    def names(cls) -> list[str]:
        """Names of the options."""
        return [f.name for f in fields(GroundingOptions)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


@dataclass
class LossOptions:
    """Weights of the training loss."""

    space_loss_weight: float = field(
        default=1.0, metadata={"help": "Weight of the space loss beside the language loss."}
    )
    box_l1_weight: float = field(default=5.0, metadata={"help": "Weight of L1 inside the space loss."})
    box_giou_weight: float = field(default=2.0, metadata={"help": "Weight of GIoU inside the space loss."})
    presence_loss_weight: float = field(
        default=0.25, metadata={"help": "Weight of the presence loss beside the language loss, with `presence_head`."}
    )


class SpaceVLLMConfigMixin:
    """Marks the SpaceVLLM configs; the fields are declared in each class, as transformers' dataclasses need it.

    They are `staq_token_id: int | None`, `grounding: dict | None` (`GroundingOptions`) and `preprocessing: dict | None`.
    """

    # What is left are the logits, the one thing that LLaMA-Factory's `compute_accuracy` looks for.
    keys_to_ignore_at_inference = [
        *("past_key_values", "rope_deltas", "boxes", "presence", "anchor_sums"),
        *("loss_lm", "loss_l1", "loss_giou", "loss_presence"),
    ]
