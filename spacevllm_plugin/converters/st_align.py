"""The ST-Align benchmark, as LLaVA-ST reads it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from ..data.schema import Media, Target
from ..data.video import MediaError, VideoRef
from .base import Raw, Report, Sample, Whole, existing, option, parse_raw, text_key
from .boxes import Box, fit_tube, xyxy
from .media_name import is_media_name
from .moments import find_video
from .probing import ProbingSource, probe
from .streams import json_items
from .text import tidy


PLACEHOLDER = re.compile(r"<(s|e|bboxes)>")
MEDIUM = re.compile(r"\s*<(?:video|image)>\s*")


class _Meta(Raw):
    width: Whole = Field(gt=0)
    height: Whole = Field(gt=0)
    split: tuple[Whole, Whole]
    time_token: dict[str, Whole] = {}
    spatial_token: dict[str, dict[Whole, Box] | list] = {}


class _Turn(Raw):
    value: str


class _Item(Raw):
    video_path: str
    meta: _Meta
    conversations: list[_Turn] = Field(min_length=2, max_length=2)


@dataclass(kw_only=True)
class STAlign(ProbingSource):
    """The ST-Align benchmark: the items whose answer is a span (vtg), or a span and a tube (stvg).

    `split` and the time tokens are frames of the file, their last ones included. Questions stay in the source's own
    words. Items with places or times in the question, or with any other answer, are dropped as `other_task`. The
    file has no frame rate, so the videos must be at hand.
    """

    name = "st-align"
    folder = "st_align"
    probes = True
    example = "--annotations st_align_bench.json --media-dir media --out data_info/st_align/test.jsonl"

    annotations: Path = option("the JSON file", Path)
    media_dir: Path = option("media folder; the videos are below its folder st_align", Path)

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return "st_align_test"

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read item by item."""
        folder = existing(self.media_dir / self.folder, "--media-dir")
        for number, data in enumerate(json_items(self.annotations)):
            raw = parse_raw(_Item, data, report, f"item {number}")
            sample = self._sample(raw, folder, report) if raw is not None else None
            if sample is not None:
                yield sample

    def _sample(self, raw: _Item, folder: Path, report: Report) -> Sample | None:
        human, gpt = (turn.value for turn in raw.conversations)
        question = MEDIUM.sub(" ", human).strip()
        clip = raw.meta.split[0], raw.meta.split[1] + 1
        case = f"st_align/test/{raw.video_path}/{clip[0]}-{clip[1] - 1}/{text_key(question)}"
        answered = {match.group(1) for match in PLACEHOLDER.finditer(gpt)}
        task = {frozenset("se"): "vtg", frozenset(("s", "e", "bboxes")): "stvg"}.get(frozenset(answered))
        if task is None or PLACEHOLDER.search(question):
            return report.drop("other_task", case)

        times, tube = raw.meta.time_token, raw.meta.spatial_token.get("<bboxes>")
        if not {"<s>", "<e>"} <= times.keys() or (task == "stvg" and not isinstance(tube, dict)):
            return report.drop("malformed", f"{case}: a place-holder has no value")

        span = times["<s>"], times["<e>"] + 1
        sample_id = f"{case}/{task}/{span[0]}-{span[1] - 1}"
        if not is_media_name(raw.video_path):
            return report.drop("bad_media_name", sample_id)

        if not tidy(question):
            return report.drop("no_sentence", sample_id)

        video = find_video(folder, raw.video_path)
        if video is None:
            return report.drop("no_video", f"{sample_id}: {self.folder}/{raw.video_path}")

        try:
            timeline = probe(VideoRef(path=str(folder / video))).timeline
        except MediaError as err:
            return report.drop("video_unreadable", f"{sample_id}: {err}")

        repairs: set[str] = set()
        clip = max(clip[0], 0), min(clip[1], timeline.num_frames)
        cut = max(span[0], clip[0]), min(span[1], clip[1])
        if cut[0] >= cut[1]:
            return report.drop("empty_span", sample_id)

        if cut != span:
            repairs.add("span_cut_to_clip")

        target = Target()
        if task == "stvg":
            boxes = ((frame, xyxy(box)) for frame, box in sorted(tube.items()) if cut[0] <= frame < cut[1])
            target = fit_tube(boxes, raw.meta.width, raw.meta.height, repairs)
            if not target.frames:
                return report.drop("no_boxes", sample_id)

        target.span_frames, target.span_seconds = cut, timeline.span_seconds(cut)

        return Sample(
            id=sample_id,
            task=task,
            query=tidy(question),
            question=question,
            medium=video,
            media=Media(
                width=raw.meta.width,
                height=raw.meta.height,
                fps=timeline.fps,
                num_frames=timeline.num_frames,
                clip=clip,
            ),
            target=target,
            repairs=repairs,
        )
