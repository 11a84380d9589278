"""Raw annotations of public data sets -> annotation rows; one file per source."""

from .activitynet import ActivityNet
from .base import Report, Source, SourceError
from .charades_sta import CharadesSTA
from .coco_refexp import CocoRefexp
from .didemo import DiDeMo
from .egoschema import EgoSchema
from .hcstvg import HCSTVG1, HCSTVG2
from .mvbench import MVBench
from .qvhighlights import QVHighlights
from .qwenvl_rec import QwenVLRec
from .refcoco import RefCOCO
from .st_align import STAlign
from .tacos import TACoS
from .tempcompass import TempCompass
from .videomme import VideoMME
from .vidstg import VidSTG
from .writer import convert, summary_path


SOURCES: dict[str, type[Source]] = {
    source.name: source
    for source in (
        HCSTVG1,
        HCSTVG2,
        VidSTG,
        CharadesSTA,
        DiDeMo,
        TACoS,
        QVHighlights,
        ActivityNet,
        RefCOCO,
        STAlign,
        CocoRefexp,
        QwenVLRec,
        MVBench,
        VideoMME,
        TempCompass,
        EgoSchema,
    )
}

__all__ = ["SOURCES", "Report", "Source", "SourceError", "convert", "summary_path"]
