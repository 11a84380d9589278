"""Our options as fields of a page, made from the dataclasses that hold them."""

from collections.abc import Collection
from dataclasses import Field, dataclass, fields
from itertools import chain
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gradio as gr
from llamafactory.hparams import ModelArguments

from ...modeling.configuration import GroundingOptions, LossOptions
from ..options import TrainingOptions


# LLaMA-Factory's own: how many frames a model sees matters as much as any option of ours, and its page has no field.
BORROWED = ("video_maxlen", "video_fps")
# Of chat and API; a run of the Train tab has no use for it.
ELSEWHERE = ("prefix_cache_gb", "max_batch", "max_wait_ms")


@dataclass(frozen=True)
class Option:
    """An option of a run.

    Attributes:
        name: As in YAML.
        kind: `bool`, `int`, `float` or `str`.
        choices: What it may be; empty for anything of its kind.
        default: What it is unless given.
        help: As `llamafactory-cli train -h` shows it.
    """

    name: str
    kind: type
    choices: tuple[str, ...]
    default: Any
    help: str

    @classmethod
    def of(cls, field: Field, hint: Any) -> "Option":
        """The option that a field of a dataclass with a resolved type hint holds."""
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        if get_origin(hint) is Literal:
            return cls(field.name, str, tuple(kinds), field.default, field.metadata["help"])

        return cls(field.name, kinds[0] if kinds else hint, (), field.default, field.metadata["help"])

    def component(self) -> gr.components.Component:
        """A fresh field, its default in it."""
        if self.choices:
            return gr.Dropdown(choices=list(self.choices), value=self.default)

        if self.kind is bool:
            return gr.Checkbox(value=self.default)

        if self.kind is str or self.default is None:  # a field for numbers shows nothing as 0
            return gr.Textbox(value=self.default)

        return gr.Number(value=self.default, precision=0 if self.kind is int else None)

    def read(self, value: Any) -> Any:
        """What stands in a field, as the option's kind; an empty field means the default.

        Raises:
            ValueError: It is not of this kind.
        """
        if value is None or value == "":
            return self.default

        try:
            return self.kind(value)
        except ValueError:
            raise ValueError(f"{self.name}: {value!r} is no number") from None


def _options(holder: type, names: Collection[str] | None = None) -> list[Option]:
    hints = get_type_hints(holder)
    wanted = {field.name for field in fields(holder)}.difference(ELSEWHERE) if names is None else names
    return [Option.of(field, hints[field.name]) for field in fields(holder) if field.name in wanted]


# As they stand together on the page.
GROUPS = (
    [*_options(ModelArguments, BORROWED), *_options(GroundingOptions)],
    _options(LossOptions),
    _options(TrainingOptions),
)
OPTIONS = tuple(chain(*GROUPS))
