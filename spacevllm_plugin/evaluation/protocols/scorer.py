"""What a protocol has to say about one task."""

from collections.abc import Callable
from dataclasses import dataclass

from ...data.schema import AnnotationRow
from ..answer import Answer


@dataclass(frozen=True)
class Scorer:
    """How one task is scored under one protocol.

    Attributes:
        score: Scores of one answer.
        summarise: Figures of a group from its (one or more) items, that is from what `score` returned plus `id`,
            `group` and `error`.
    """

    score: Callable[[AnnotationRow, Answer], dict[str, float]]
    summarise: Callable[[list[dict]], dict[str, float]]
