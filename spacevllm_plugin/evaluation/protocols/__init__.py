"""Scoring protocols: one file each, chosen by name."""

from . import native
from .scorer import Scorer


# protocol -> task -> how to score it
PROTOCOLS: dict[str, dict[str, Scorer]] = {"native": native.SCORERS}
