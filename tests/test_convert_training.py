"""Converted rows train: with boxes, from a pickle, and with seconds alone."""

import pytest
import torch
from conftest import write_image, write_video
from converting import converted, write_json
from runs import train, write_data

from spacevllm_plugin.data.targets import pixel_box


@pytest.fixture
def rows(tmp_path):
    """A tube (HC-STVG), a span in seconds (TACoS, without its video's facts) and an expression (Qwen-VL's file)."""
    hcstvg = {
        "bbox": [[10 + i, 5, 20, 30] for i in range(4)],
        "st_frame": 5,
        "img_num": 40,
        "caption": "the man turns",
        "width": 48,
        "height": 48,
    }
    tacos = {"timestamps": [[4, 12]], "sentences": ["He cuts."], "fps": 2, "num_frames": 20}
    qwen = {"image": "a.png", "sent": "the red one", "bbox": [3, 4, 30, 40], "width": 48, "height": 48}
    made = []
    for source, name, raw, split in (
        ("hcstvg-v1", "tube", {"a.mp4": hcstvg}, {"split": "train"}),
        ("tacos", "span", {"b.mp4": tacos}, {"split": "train"}),
        ("qwenvl-rec", "box", qwen, {"split": "train", "dataset_name": "q"}),
    ):
        annotations = write_json(tmp_path / f"{name}.json", raw)
        (row,) = converted(source, tmp_path / f"rows/{name}.jsonl", annotations=annotations, **split).rows
        made.append(row)

    for folder in ("data/hcstvg", "data/tacos", "data/coco/train2014"):
        (tmp_path / folder).mkdir(parents=True)

    write_video(tmp_path / "data/hcstvg/a.mp4", count=40, fps=2)
    write_video(tmp_path / "data/tacos/b.mp4", count=20, fps=2)
    write_image(tmp_path / "data/coco/train2014/a.png")
    return made


def test_converted_rows_train(rows, tiny_base, tmp_path):
    write_data(tmp_path / "data", rows)
    log = train(
        tiny_base("qwen3_vl"),
        tmp_path / "data",
        tmp_path / "out",
        dataset="rows",
        max_steps=1,
        per_device_train_batch_size=3,
    )
    assert log[0]["loss_l1"] > 0 and log[0]["loss_giou"] > 0


def test_the_boxes_that_reach_the_loss_are_the_raw_ones(rows, make_engine, tmp_path):
    """A query of the tube for each frame: raw box at frames 4..7 (st_frame 5 counts from 1), none elsewhere."""
    from spacevllm_plugin.data.schema import AnnotationRow
    from spacevllm_plugin.data.targets import query_targets

    engine = make_engine("qwen3_vl", video_maxlen=40)
    write_data(tmp_path / "data", rows)
    row = AnnotationRow.model_validate(rows[0])
    _, (plan,) = engine.prompter.plan([], [str(tmp_path / "data" / row.videos[0])])
    _, (tube,) = query_targets(row, 0, [plan])
    found = {
        frame: pixel_box(box, 48, 48) for frame, box in zip(plan.frames, tube) if not torch.tensor(box).isnan().any()
    }
    assert found and set(found) == {frame for frame in plan.frames if 4 <= frame < 8}
    for frame, box in found.items():
        x = 10 + frame - 4
        assert box == pytest.approx([x, 5, x + 20, 35])
