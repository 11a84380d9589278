"""Scores of predicted spans, tubes and boxes. Needs numpy only."""

from .chance import constant_baseline
from .protocols import Rules
from .score import EvaluationResult, evaluate


__all__ = ["EvaluationResult", "Rules", "constant_baseline", "evaluate"]
