"""Scores of predicted spans, tubes and boxes. Needs numpy only."""

from .chance import constant_baseline
from .score import EvaluationResult, evaluate


__all__ = ["EvaluationResult", "constant_baseline", "evaluate"]
