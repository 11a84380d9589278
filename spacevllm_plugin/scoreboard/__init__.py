"""The eleven benchmarks: from raw files to one report each."""

from .catalogue import BENCHMARKS
from .run import Run


__all__ = ["BENCHMARKS", "Run"]
