"""What a room says of its backbone: facts, and names of what is imported only when it is used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

from packaging.specifiers import SpecifierSet

from ..versions import installed


# Of a video's prompt: those of a time between its frames, and those of its words.
TIME_TOKENS, TEXT_TOKENS = 8, 150
# Before a plain backbone's model type, this is the model type of a SpaceVLLM checkpoint on it.
PREFIX = "spacevllm_"


@dataclass(frozen=True)
class Composite:
    """Which modules are vision, projector and language, as LLaMA-Factory's `_register_composite_model` takes them."""

    projector_keys: tuple[str, ...]
    vision_model_keys: tuple[str, ...] | None = None
    language_model_keys: tuple[str, ...] | None = None
    lora_conflict_keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class BackboneSpec:
    """A backbone. Written in a room's `spec.py` as `SPEC`; importing that imports neither torch nor transformers.

    Attributes:
        name: The plain backbone's model type in transformers, and the room's name.
        package: The room's package; `config`, `model`, `prompter` and `tiny` are looked up below it.
        title: For tables and messages.
        template: Name of the LLaMA-Factory template that chooses this backbone.
        config: `module:class` of its SpaceVLLM config, whose `model_type` is the name with `spacevllm_` before it.
        model: `module:class` of its model, a `SpaceVLLMMixin` before the stock class.
        prompter: `module:class` of its `Prompter`.
        tiny: `module:function` that builds a tiny stock model and its processor from a corpus, see `tiny.make_tiny`.
        processor_class: Class name of the processor that its checkpoints have.
        image_token: Stands for one visual token of an image in a prompt.
        video_token: The same of a video. Another one, by which a prompt tells them apart, even where the backbone has one
            token for both: features take its place, so that any token of the tokenizer will do.
        special_tokens: What a template alone may write into a prompt, beside ChatML's; `<image>` and `<video>` in a text
            stand for files, and are none.
        default_system: System message of prompts that have none.
        thought_words: What opens and closes a thought before an answer, as its chat template writes them; None for
            backbones that do not think.
        hub_ids: Name in LlamaBoard -> base checkpoint on the hub.
        composite: None where LLaMA-Factory's own entry for the plain backbone is right.
        mrope: Positions are those of M-RoPE, which LLaMA-Factory's collator must know.
        expert_block: `module:class` in transformers of a layer's router with its experts, for a mixture of experts: under
            ZeRO-3 ranks whose tokens go through different experts must gather them all alike.
        temporal_patch_size: Frames that share a query in published checkpoints.
        frame_tokens: Tokens of what shares a query in published checkpoints, the query and the marks around it included and
            its time not, from `video_max_pixels`: what `cutoff_len` in a recipe must hold.
        quickstart: `KEY=VALUE` that the quickstart's training runs need beside their recipes.
        not_for_engines: Why a checkpoint cannot be exported for inference engines, whose class is the stock one; None if it
            can, for which positions, embeddings and attention must be what the stock class makes of tokens and pictures.
        limits: What is known not to work, or to be less good than elsewhere; a line each.
        transformers: Releases that have its classes, beyond those that the plugin asks for.
    """

    name: str
    package: str
    title: str
    template: str
    config: str
    model: str
    prompter: str
    tiny: str
    processor_class: str
    image_token: str
    video_token: str
    special_tokens: tuple[str, ...] = ()
    default_system: str = ""
    thought_words: tuple[str, str] | None = None
    hub_ids: Mapping[str, str] = field(default_factory=dict)
    composite: Composite | None = None
    mrope: bool = False
    expert_block: str | None = None
    temporal_patch_size: int = 1
    frame_tokens: Callable[[int], int] | None = None
    quickstart: tuple[str, ...] = ()
    not_for_engines: str | None = None
    limits: tuple[str, ...] = ()
    transformers: str = ""

    @property
    def model_type(self) -> str:
        """Of a SpaceVLLM checkpoint on this backbone."""
        return PREFIX + self.name

    @property
    def empty_thought(self) -> str:
        """What stands before an answer without a thought."""
        return "".join(self.thought_words or ())

    @property
    def config_class(self) -> type:
        """The config class (a transformers `PreTrainedConfig`); imports it."""
        return self._load(self.config)

    @property
    def model_class(self) -> type:
        """The model class (a transformers `PreTrainedModel`); imports it."""
        return self._load(self.model)

    @property
    def prompter_class(self) -> type:
        """The prompter class (a `backbones.prompter.Prompter`); imports it."""
        return self._load(self.prompter)

    @property
    def build_tiny(self) -> Callable[..., tuple]:
        """The builder of tiny checkpoints: from a corpus to a stock model and its processor; imports it."""
        return self._load(self.tiny)

    def prompt_tokens(self, video_maxlen: int, video_max_pixels: int) -> int | None:
        """About how many tokens the longest prompt of one video has; None where `frame_tokens` is not said."""
        if self.frame_tokens is None:
            return None

        queries = -(-video_maxlen // self.temporal_patch_size)
        return queries * (self.frame_tokens(video_max_pixels) + TIME_TOKENS) + TEXT_TOKENS

    def find_problem(self) -> str | None:
        """Why it cannot be used here, in one line; None if it can."""
        version = installed("transformers")
        if version is None or SpecifierSet(self.transformers, prereleases=True).contains(version):
            return None

        return f"{self.title} needs transformers{self.transformers}; installed is {version}"

    def _load(self, place: str) -> Any:
        return resolve_name(f"{self.package}.{place}")
