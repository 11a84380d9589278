"""Raw annotations of public data sets -> annotation rows; one file per source."""

from .base import Report, Source, SourceError
from .vidstg import VidSTG
from .writer import convert, summary_path


SOURCES: dict[str, type[Source]] = {source.name: source for source in (VidSTG,)}

__all__ = ["SOURCES", "Report", "Source", "SourceError", "convert", "summary_path"]
