"""Checking annotation rows and their media files: `spacevllm-cli check`."""

from .file import CheckOptions, check_file
from .report import Problem, Report


__all__ = ["CheckOptions", "Problem", "Report", "check_file"]
