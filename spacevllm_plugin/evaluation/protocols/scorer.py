"""What a protocol has to say about one task."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...data.schema import AnnotationRow
from ..answer import Answer


@dataclass(frozen=True)
class Rules:
    """What the user may choose.

    Attributes:
        gt_shift: Frames by which every true span moves, and its boxes with it (stvg).
        gt_end_shift: Frames by which its end moves (stvg).
        strict: Count what is above a threshold instead of at or above it (vtg).
    """

    gt_shift: int = 0
    gt_end_shift: int = 0
    strict: bool = False


@dataclass(frozen=True)
class Scored:
    """What a protocol makes of one answer.

    Attributes:
        values: The item's columns; NaN where the published code gives NaN, None where it has no such score.
        error: Why the published code would stop at this item, or what made a value NaN; one line.
        stops: Whether it would stop: no figure of the item's group exists then.
        counted: False leaves the item out of the means.
        quirks: What the protocol did otherwise than `native`, named only where it changed this item's figures.
    """

    values: dict[str, float | None]
    error: str | None = None
    stops: bool = False
    counted: bool = True
    quirks: tuple[str, ...] = ()


ScoreItem = Callable[[AnnotationRow, Answer, Rules], Scored]


@dataclass(frozen=True)
class Scorer:
    """How one task is scored under one protocol.

    Attributes:
        columns: Names of the item's values.
        score: Scores of one answer.
        figures: The figures of a group: name -> one value per item, whose mean is the figure. Gets the columns as arrays
            of shape (n,), with NaN where there is no value.
        undefined: Figures that this protocol does not have -> why.
    """

    columns: tuple[str, ...]
    score: ScoreItem
    figures: Callable[[dict[str, np.ndarray], Rules], dict[str, np.ndarray]]
    undefined: dict[str, str] | None = None


def stopped(columns: tuple[str, ...], reason: str) -> Scored:
    """An item at which the published code would stop."""
    return Scored(dict.fromkeys(columns), error=reason, stops=True)


def left_out(columns: tuple[str, ...], reason: str) -> Scored:
    """An item that the published code leaves out of its means."""
    return Scored(dict.fromkeys(columns), error=reason, counted=False, quirks=(f"left out of the mean: {reason}",))
