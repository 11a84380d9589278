"""VidSTG joined with VidOR's boxes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_core import from_json

from ..data.schema import Media
from ..data.timeline import Timeline
from .base import Raw, Report, Sample, Source, SourceError, Whole, existing, option, parse_raw
from .boxes import Box, fit_tube
from .raw_text import raw_text
from .streams import json_items
from .text import tidy


# Entries of one video mostly stand together; a tube table of one video is a few MB at most.
VIDEOS_IN_MEMORY = 8

GROUPS = (("captions", "declarative"), ("questions", "interrogative"))


class _Segment(Raw):
    begin_fid: Whole
    end_fid: Whole


class _Relation(Raw):
    subject_tid: Whole
    object_tid: Whole
    predicate: str


class _Sentence(Raw):
    description: str
    target_id: Whole


class _Entry(Raw):
    vid: str
    frame_count: Whole = Field(gt=0)
    fps: float = Field(gt=0)
    width: Whole = Field(gt=0)
    height: Whole = Field(gt=0)
    used_segment: _Segment
    used_relation: _Relation
    temporal_gt: _Segment
    captions: list[_Sentence]
    questions: list[_Sentence]


@dataclass(frozen=True)
class _Video:
    """What is needed of one VidOR file.

    Attributes:
        path: `folder/vid.mp4`.
        tubes: For each object its frames, increasing, and boxes, `generated` ones too.
    """

    path: str
    tubes: dict[int, dict[int, Box]]


@dataclass(kw_only=True)
class VidSTG(Source):
    """VidSTG (declarative and interrogative sentences) with the boxes of VidOR.

    `temporal_gt` ends before its `end_fid`, `used_segment` with it. The clip of a row is the used segment; a frame of
    the span that VidOR has no box for is left out (boxes are sparse then). An `end_fid` behind the used segment is a
    repair (`span_end_behind_clip`) unless the video ends with it: STCAT's loader drops such an item.
    """

    name = "vidstg"
    folder = "vidor"
    example = (
        "--annotations test_annotations.json --boxes vidor/validation --split test --out data_info/vidstg/test.jsonl"
    )

    annotations: Path = option("VidSTG's JSON file of the split", Path)
    boxes: Path = option("folder of VidOR's JSON files, one for each video, in subfolders or not", Path)
    split: str = option("which split the file is", choices=("train", "val", "test"))

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return f"vidstg_{self.split}"

    @cached_property
    def _files(self) -> dict[str, Path]:
        """VidOR's file of each video."""
        files = {path.stem: path for path in existing(self.boxes, "--boxes").rglob("*.json")}
        if not files:
            raise SourceError(f"--boxes: no JSON file in {self.boxes}")

        return files

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read entry by entry."""
        videos = lru_cache(VIDEOS_IN_MEMORY)(_read_video)
        files = self._files
        for number, data in enumerate(json_items(self.annotations)):
            entry = parse_raw(_Entry, data, report, f"item {number}")
            if entry is None:
                continue

            video = videos(files[entry.vid]) if entry.vid in files else None
            for column, group in GROUPS:
                for index, sentence in enumerate(getattr(entry, column)):
                    sample_id = self._id(entry, group, sentence, index)
                    if video is None:
                        report.drop("no_vidor_file", sample_id)
                    elif isinstance(video, str):
                        report.drop("vidor_file_unreadable", f"{sample_id}: {video}")
                    else:
                        sample = _sample(sample_id, entry, group, sentence, video, report)
                        if sample is not None:
                            yield sample

    def _id(self, entry: _Entry, group: str, sentence: _Sentence, index: int) -> str:
        clip, span, relation = entry.used_segment, entry.temporal_gt, entry.used_relation
        return (
            f"vidstg/{self.split}/{entry.vid}/{clip.begin_fid}-{clip.end_fid}/{span.begin_fid}-{span.end_fid}/"
            f"{relation.subject_tid}-{relation.predicate}-{relation.object_tid}/{group}/{sentence.target_id}/{index}"
        )


def _sample(
    sample_id: str, entry: _Entry, group: str, sentence: _Sentence, video: _Video, report: Report
) -> Sample | None:
    repairs: set[str] = set()
    clip = max(entry.used_segment.begin_fid, 0), min(entry.used_segment.end_fid + 1, entry.frame_count)
    if clip != (entry.used_segment.begin_fid, entry.used_segment.end_fid + 1):
        repairs.add("clip_cut_to_video")

    span = max(entry.temporal_gt.begin_fid, clip[0]), min(entry.temporal_gt.end_fid, clip[1])
    if span != (entry.temporal_gt.begin_fid, entry.temporal_gt.end_fid):
        repairs.add("span_cut_to_clip")

    if clip[1] < entry.frame_count and entry.temporal_gt.end_fid >= clip[1]:
        repairs.add("span_end_behind_clip")

    query = tidy(sentence.description)
    if not query:
        return report.drop("no_sentence", sample_id)

    if clip[0] >= clip[1] or span[0] >= span[1]:
        return report.drop("empty_span", sample_id)

    tube = video.tubes.get(sentence.target_id, {})
    # A span may be annotated of any length, so it is not gone through beyond the last box.
    last = min(span[1], next(reversed(tube), -1) + 1)
    wanted = ((frame, tube[frame]) for frame in range(span[0], last) if frame in tube)
    # STCAT's loader takes the box at `end_fid` for the tube's last one.
    behind = [(span[1], tube[span[1]])] if span[1] in tube and span[1] < clip[1] else []
    target = fit_tube(wanted, entry.width, entry.height, repairs, behind)
    if not target.frames:
        return report.drop("no_boxes", sample_id)

    if len(target.frames) < span[1] - span[0]:
        repairs.add("sparse_boxes")

    target.span_frames, target.span_seconds = span, Timeline(entry.frame_count, entry.fps).span_seconds(span)

    return Sample(
        id=sample_id,
        task="stvg",
        group=group,
        interrogative=group == "interrogative",
        query=query,
        medium=video.path,
        media=Media(width=entry.width, height=entry.height, fps=entry.fps, num_frames=entry.frame_count, clip=clip),
        target=target,
        repairs=repairs,
    )


def _read_video(path: Path) -> _Video | str:
    """One VidOR file, or one line that says why it cannot be read."""
    try:
        with raw_text(path) as file:
            data: dict[str, Any] = from_json(file.read())

        tubes: dict[int, dict[int, Box]] = {}
        for frame, objects in enumerate(data["trajectories"]):
            for item in objects:
                box = item["bbox"]
                corners = tuple(float(box[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
                tubes.setdefault(item["tid"], {})[frame] = corners

        if not isinstance(data["video_path"], str):
            raise TypeError("video_path is no text")

        return _Video(data["video_path"], tubes)
    except SourceError as err:
        return str(err)
    except (ValueError, KeyError, TypeError, OverflowError) as err:
        return f"{path.name}: {type(err).__name__} {err}"
