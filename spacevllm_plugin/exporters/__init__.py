"""Tubes as files of other tools: one file a format, and this list of them."""

from .base import Exporter, ExportError, TubeRecord
from .coco import COCO
from .cvat import CVAT
from .label_studio import LABEL_STUDIO
from .pictures import GIF, MP4
from .rows import CSV, JSON
from .youtube_vis import YOUTUBE_VIS


EXPORTERS = {exporter.name: exporter for exporter in (JSON, CSV, COCO, YOUTUBE_VIS, CVAT, LABEL_STUDIO, MP4, GIF)}


def get(name: str) -> Exporter:
    """The exporter of a format; raises `ExportError` if there is none of this name."""
    if name not in EXPORTERS:
        raise ExportError(f"no format {name!r}: {', '.join(EXPORTERS)}")

    return EXPORTERS[name]


__all__ = ["EXPORTERS", "ExportError", "Exporter", "TubeRecord", "get"]
