"""Videos about which many things are asked."""

import json
from pathlib import Path

from spacevllm_plugin.data.schema import AnnotationRow, dump_row
from spacevllm_plugin.data.synthetic import SynthConfig, write_set


FORMS = ("{}", "Please: {}", "Tell me. {}", "{} Be exact.", "Look closely. {}", "{} Thank you.", "Now, {}", "Then: {}")


def write_asked(folder: Path, side: int, frames: int, videos: int = 1, sentences: int = 1) -> list[AnnotationRow]:
    """Write a synthetic set of videos with so many rows each.

    There are few shapes in a video, so the same is asked in several ways.

    Args:
        folder: Where; a data set for LLaMA-Factory, see `name_of`.
        side: Pixels of a frame's side.
        frames: Of each video.
        videos: How many.
        sentences: Rows of each.
    """
    by_video: dict[str, list[AnnotationRow]] = {}
    for row in write_set(folder, SynthConfig(num_videos=videos, size=side, num_frames=frames)):
        by_video.setdefault(row.videos[0], []).append(row)

    asked = []
    for number, own in enumerate(by_video.values()):
        for i in range(sentences):
            row = own[i % len(own)].model_copy(deep=True, update={"id": f"{number}/{i}"})
            question = row.messages[0].content.removeprefix("<video>")
            row.messages[0].content = "<video>" + FORMS[i // len(own) % len(FORMS)].format(question)
            asked.append(row)

    (folder / "annotations.jsonl").write_text("".join(dump_row(row) + "\n" for row in asked))
    return asked


def name_of(folder: Path) -> str:
    """The data set's name."""
    return next(iter(json.loads((folder / "dataset_info.json").read_text())))
