"""MVBench."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.schema import Media
from ..data.video import MediaError, VideoRef
from .base import Raw, Report, Sample, existing, option, parse_raw
from .media_name import is_media_name
from .probing import ProbingSource, probe
from .questions import QuestionSource
from .streams import json_items


# Task -> folders that its videos may lie in. The first holds whole videos, or segments cut by the authors; the second, where
# there is one, the videos before that cut, of which an item means `start` to `end`.
FOLDERS = {
    "action_antonym": ("ssv2_video",),
    "action_count": ("perception/videos",),
    "action_localization": ("sta/sta_video_segment", "sta/sta_video"),
    "action_prediction": ("star/Charades_segment", "star/Charades_v1_480"),
    "action_sequence": ("star/Charades_segment", "star/Charades_v1_480"),
    "character_order": ("perception/videos",),
    "counterfactual_inference": ("clevrer/video_validation",),
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/video_fps3_hq_segment", "tvqa/frames_fps3_hq"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "fine_grained_pose": ("nturgbd",),
    "moving_attribute": ("clevrer/video_validation",),
    "moving_count": ("clevrer/video_validation",),
    "moving_direction": ("clevrer/video_validation",),
    "object_existence": ("clevrer/video_validation",),
    "object_interaction": ("star/Charades_segment", "star/Charades_v1_480"),
    "object_shuffle": ("perception/videos",),
    "scene_transition": ("scene_qa/video",),
    "state_change": ("perception/videos",),
    "unexpected_action": ("FunQA_test/test",),
}
# Recoded copies that the authors offer in place of a folder.
CONVERTED = {"ssv2_video": "ssv2_video_mp4", "nturgbd": "nturgbd_convert"}
# What the authors packed later, `data0613.zip`: videos of CLEVRER and STAR that are in neither of these two archives.
LATER = "data0613"
TVQA_FPS = 3.0


class _Item(Raw):
    video: str
    question: str
    candidates: list[str]
    answer: str
    start: float | None = None
    end: float | None = None


@dataclass(kw_only=True)
class MVBench(QuestionSource, ProbingSource):
    """MVBench: twenty temporal tasks, multiple choice; `group` is the task.

    Reads TASK.json of a folder. Some tasks ask about a part of a video. The authors publish two branches: `main` has whole
    videos, and the clip is taken from `start` and `end`; `video`, which lmms-eval reads, has cut segments, and its JSON
    names these. Either will do, JSON and videos from the same one.
    """

    name = "mvbench"
    folder = "mvbench"
    probes = True
    example = "--annotations mvbench/json --media-dir media --out data_info/mvbench/test.jsonl"

    annotations: Path = option("folder of the twenty JSON files", Path)
    media_dir: Path = option(
        "media folder: which of the possible video folders is there decides what a row names", Path
    )

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return "mvbench"

    @property
    def note(self) -> str | None:
        """Tasks without a file."""
        missing = [task for task in FOLDERS if not (self.annotations / f"{task}.json").exists()]
        return f"no file for {', '.join(missing)}" if missing else None

    def samples(self, report: Report) -> Iterator[Sample]:
        """Read task by task."""
        existing(self.annotations, "--annotations")
        for task in FOLDERS:
            path = self.annotations / f"{task}.json"
            for number, data in enumerate(json_items(path) if path.exists() else ()):
                item = parse_raw(_Item, data, report, f"{path.name}: item {number}")
                if item is None:
                    continue

                sample_id = f"mvbench/{task}/{number}"
                video, ref = self._find(task, item)
                repairs: set[str] = set()
                try:
                    media = _media(ref, item)
                except MediaError:
                    # Prediction will meet the same: the row stays, and fails there.
                    media, repairs = None, {"video_unreadable"}

                right = item.candidates.index(item.answer) if item.answer in item.candidates else -1
                sample = self.choice(
                    report, sample_id, video, item.question, item.candidates, right, group=task, media=media
                )
                if sample is not None:
                    sample.repairs |= repairs
                    yield sample

    def _find(self, task: str, item: _Item) -> tuple[str, VideoRef | None]:
        """The video's path below `folder`, and a reference to it where only a part of it is meant."""
        root = self.media_dir / self.folder
        for place, folder in enumerate(FOLDERS[task] if is_media_name(item.video) else ()):
            for name in (folder, CONVERTED.get(folder), f"{LATER}/{folder}"):
                if name is not None and os.path.exists(root / name / item.video):
                    path = f"{name}/{item.video}"
                    frames = (root / path).is_dir()
                    ref = VideoRef(path=str(root / path), fps=TVQA_FPS if frames else None)
                    return path, ref if place or frames else None

        return f"{FOLDERS[task][0]}/{item.video}", None


def _media(ref: VideoRef | None, item: _Item) -> Media | None:
    """The facts of a video of which a part is meant, with that part."""
    if ref is None:
        return None

    info = probe(ref)
    timeline = info.timeline
    clip = None
    if item.start is not None and item.end is not None:
        clip = timeline.span_frames((item.start, item.end))

    return Media(width=info.width, height=info.height, fps=timeline.fps, num_frames=timeline.num_frames, clip=clip)
