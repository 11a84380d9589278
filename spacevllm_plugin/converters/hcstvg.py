"""HC-STVG v1 and v2."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from ..data.schema import Media
from ..data.timeline import Timeline
from .base import Raw, Report, Sample, Source, Whole, option, parse_raw
from .boxes import Box, fit_tube, xyxy
from .streams import json_entries
from .text import tidy


# Every clip lasts 20 seconds; the files state its number of frames only.
CLIP_SECONDS = 20


class _Tube(Raw):
    bbox: list[Box]
    st_frame: Whole
    img_num: Whole = Field(gt=0)


class _V1(_Tube):
    caption: str
    width: Whole = Field(gt=0)
    height: Whole = Field(gt=0)

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


class _V2(_Tube):
    caption: str = Field(validation_alias="English")
    img_size: tuple[Whole, Whole]

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.img_size
        return width, height


class HCSTVG(Source):
    """What both versions share: `st_frame` counts from 1, and the tube is as long as `bbox`, whatever the times say."""

    folder = "hcstvg"
    raw: ClassVar[type[_Tube]]
    annotations: Path
    split: str

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return f"{self.name.replace('-v', '')}_{self.split}"

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read video by video; each has one sentence."""
        for video, data in json_entries(self.annotations):
            raw = parse_raw(self.raw, data, report, video)
            if raw is None:
                continue

            sample = self._sample(f"{self.name.replace('-v', '')}/{self.split}/{video}/0", video, raw, report)
            if sample is not None:
                yield sample

    def _sample(self, sample_id: str, video: str, raw: _Tube, report: Report) -> Sample | None:
        repairs: set[str] = set()
        width, height = raw.size
        start = raw.st_frame - 1
        span = max(start, 0), min(start + len(raw.bbox), raw.img_num)
        if span != (start, start + len(raw.bbox)):
            repairs.add("span_cut_to_video")

        query = tidy(raw.caption)
        if not query:
            return report.drop("no_sentence", sample_id)

        if not raw.bbox:
            return report.drop("no_boxes", sample_id)

        if span[0] >= span[1]:
            return report.drop("empty_span", sample_id)

        tube = ((frame, xyxy(raw.bbox[frame - start])) for frame in range(*span))
        target = fit_tube(tube, width, height, repairs)
        if not target.frames:
            return report.drop("boxes_outside_frame", sample_id)

        fps = raw.img_num / CLIP_SECONDS
        target.span_frames, target.span_seconds = span, Timeline(raw.img_num, fps).span_seconds(span)
        return Sample(
            id=sample_id,
            task="stvg",
            group="declarative",
            query=query,
            medium=video,
            media=Media(width=width, height=height, fps=fps, num_frames=raw.img_num),
            target=target,
            repairs=repairs,
        )


@dataclass(kw_only=True)
class HCSTVG1(HCSTVG):
    """HC-STVG v1: one sentence and one tube for each 20-second clip.

    The frame rate is taken as img_num / 20.
    """

    name = "hcstvg-v1"
    example = "--annotations test.json --split test --out data_info/hcstvg1/test.jsonl"
    raw = _V1

    annotations: Path = option("train.json or test.json", Path)
    split: str = option("which split the file is", choices=("train", "test"))


@dataclass(kw_only=True)
class HCSTVG2(HCSTVG):
    """HC-STVG v2: one English sentence and one tube for each 20-second clip.

    The frame rate is taken as img_num / 20; Chinese sentences are passed over. The test split's boxes are withheld.
    """

    name = "hcstvg-v2"
    example = "--annotations valv2.json --split val --out data_info/hcstvg2/val.jsonl"
    raw = _V2

    annotations: Path = option("trainv2.json or valv2.json", Path)
    split: str = option("which split the file is", choices=("train", "val"))
