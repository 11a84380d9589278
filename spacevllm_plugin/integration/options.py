"""One run's options: one object of ours, from LLaMA-Factory's arguments to the prompter, the collator and the trainer."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..data.frame_cache import FrameCache
from ..data.media_cache import DEFAULT_GB, use_media_cache
from ..data.media_index import MediaIndex
from ..data.plan import Preprocessing
from ..data.video import IndexFolder, Shelf
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
                "What unusable rows do (not in the format, media missing or broken, targets outside the video, too long "
                "for `cutoff_len`, evaluation rows with the id of another one): stop before the first step and name "
                "them all, or be left out and counted."
            )
        },
    )
    on_mismatch: Literal["stop", "skip", "trust"] = field(
        default="stop",
        metadata={
            "help": (
                "What rows do that say something else of their media than the files do (size, rotation, frame rate, "
                "number of frames, seconds of the span; the rules of `spacevllm-cli check`): stop before the first step "
                "and name them all, be left out and counted, or be trusted."
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
    media_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": (
                "Folder on a local disk for what is read of remote videos and images (s3://, gs://, hf://, https://), so "
                "that each part is fetched once for all epochs and runs; none if not given."
            )
        },
    )
    media_cache_gb: float = field(
        default=DEFAULT_GB,
        metadata={
            "help": (
                "Most gigabytes in `media_cache_dir`. A full cache keeps what this run has used and stores nothing more; "
                "only what other runs have left makes room."
            )
        },
    )
    media_index: str | None = field(
        default=None,
        metadata={
            "help": (
                "File of what is known of the videos (size, clock, where they end), so that each is opened once before "
                "training, and by later runs not at all; made and added to while tokenising, read by everything else. "
                "`spacevllm-cli check` and `convert` write it, too."
            )
        },
    )
    prefix_cache_gb: float = field(
        default=0.0,
        metadata={
            "help": (
                "In chat and API: gigabytes, of the device's memory, for what was read of the videos and images asked about "
                "last, so that a further question about one of them is answered without reading it again; 0 keeps nothing."
            )
        },
    )
    max_batch: int = field(
        default=8,
        metadata={
            "help": (
                "In chat and API: most requests that wait at the same time and are answered by one generation; 1 answers them "
                "one by one. Streams, several answers to a request, seeds and repetition penalties stay alone."
            )
        },
    )
    max_wait_ms: float = field(
        default=0.0,
        metadata={
            "help": (
                "In chat and API: most milliseconds that a request waits for others to fill `max_batch` while the model has "
                "nothing to do; 0: none, only those are put together that came while it was busy."
            )
        },
    )
    sentences_per_video: int = field(
        default=1,
        metadata={
            "help": (
                "Most rows about one video, or image, that are trained as one sequence: the video is paid for once, and "
                "each row counts as it does alone. `per_device_train_batch_size` then counts sequences. Not with "
                "`instruction_first`, flash attention or backbones with linear attention."
            )
        },
    )
    grounding_metrics: bool = field(
        default=True,
        metadata={"help": "With `do_eval`: ground the evaluation rows too and log m_tIoU, m_vIoU and the like."},
    )
    grounding_metrics_rows: int | None = field(
        default=None,
        metadata={
            "help": (
                "Most rows that `grounding_metrics` grounds, evenly spaced through those of each task and the same at "
                "every evaluation; all if not given."
            )
        },
    )

    def __post_init__(self) -> None:
        if self.prefix_cache_gb < 0:
            raise ValueError(f"prefix_cache_gb must not be below 0, as {self.prefix_cache_gb} is; 0 keeps nothing.")

        if self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, not {self.max_batch}; 1 answers requests one by one.")

        if self.max_wait_ms < 0:
            raise ValueError(f"max_wait_ms must not be below 0, as {self.max_wait_ms} is; 0 waits for nobody.")

        if self.sentences_per_video < 1:
            raise ValueError(f"sentences_per_video must be at least 1, not {self.sentences_per_video}.")

        if self.grounding_metrics_rows is not None and self.grounding_metrics_rows < 1:
            raise ValueError(
                f"grounding_metrics_rows must be at least 1, not {self.grounding_metrics_rows}; for none, set "
                "`grounding_metrics: false`."
            )


def read_options(kind: type, holder: Any) -> Any:
    """Options of one kind, a dataclass, from arguments that carry them as attributes."""
    return kind(**{option.name: getattr(holder, option.name) for option in fields(kind)})


@dataclass(frozen=True)
class RunOptions:
    """All options of ours, as they hold for a run: those given, and those recorded with its checkpoint.

    LLaMA-Factory hands the processor to whatever reads media or trains, so this travels on it.

    Attributes:
        grounding: What travels with checkpoints.
        preprocessing: LLaMA-Factory's own media options, which do too.
        loss: Weights of the loss.
        training: What concerns this run alone.
        frame_cache: Where resized frames are kept; None without `frame_cache_dir`. One for all processes of a run, made
            when it begins: what was used since then stays.
        media_index: What is known of videos; None without the option of that name.
    """

    grounding: GroundingOptions
    preprocessing: Preprocessing
    loss: LossOptions
    training: TrainingOptions
    frame_cache: FrameCache | None
    media_index: MediaIndex | None = None

    @property
    def indexes(self) -> Shelf | None:
        """Where the indexes of videos are kept: the media index, or else beside the frame cache's entries, if at all."""
        return self.media_index or (IndexFolder(self.frame_cache.indexes) if self.frame_cache is not None else None)

    @classmethod
    def of(cls, model_args: Any) -> "RunOptions":
        """The options that arguments carry, once `checkpoint.apply_recorded` has seen them.

        Raises:
            ValueError: `frame_cache_dir` or `media_cache_dir` cannot be used.
            MediaIndexError: `media_index` cannot.
        """
        kinds = (GroundingOptions, Preprocessing, LossOptions, TrainingOptions)
        *others, training = (read_options(kind, model_args) for kind in kinds)
        folder = training.frame_cache_dir
        frame_cache = FrameCache.create(folder, training.frame_cache_gb) if folder else None
        if training.media_cache_dir:
            use_media_cache(training.media_cache_dir, training.media_cache_gb)

        media_index = MediaIndex.at(training.media_index) if training.media_index else None
        return cls(*others, training, frame_cache, media_index)

    def put_on(self, processor: Any) -> None:
        """Give them to a processor to carry."""
        processor.spacevllm_options = self

    @staticmethod
    def on(processor: Any) -> "RunOptions":
        """The options that a processor carries."""
        return processor.spacevllm_options
