"""Raw annotations → convert → check → tokenise and collate through LLaMA-Factory: the boxes are still the raw boxes.

Each source gets a real video or image of a bright rectangle on black, which is the raw box.
"""

import math
import pickle
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import BACKBONES
from converting import converted, write_json
from PIL import Image
from runs import TEMPLATES, arguments, model_and_batch

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.targets import pixel_box
from spacevllm_plugin.modeling.box_bits import from_bits
from spacevllm_plugin.modeling.layout import Layout


WIDTH, HEIGHT, FPS = 130, 98, 25
COLOUR = (250, 220, 60)


def hcstvg_box(frame):
    """A step to the right every 4 frames and down every 8, from frame 100 on."""
    x, y = 5 + (frame - 100) // 4, 8 + (frame - 100) // 8
    return x, y, x + 31, y + 27


def vidstg_box(frame):
    """One pixel to the right and half a pixel up with every frame."""
    return 10 + frame, 60 - frame / 2, 40 + frame, 81 - frame / 2


REC_BOX = (33, 21, 74, 52)


def painted(box):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    if box is not None:
        x1, y1, x2, y2 = (int(value) for value in box)
        pixels[y1:y2, x1:x2] = COLOUR

    return pixels


def write_video(path, count, span, box_of):
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "4"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = WIDTH, HEIGHT, "yuv420p", 1
        for number in range(count):
            box = box_of(number) if span[0] <= number < span[1] else None
            output.mux(stream.encode(av.VideoFrame.from_ndarray(painted(box), "rgb24")))

        output.mux(stream.encode(None))


def coloured(pixels):
    """The rectangle that is seen in a picture, xyxy."""
    bright = np.asarray(pixels.convert("L")) > 110
    (rows,), (columns,) = np.nonzero(bright.any(1)), np.nonzero(bright.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def decoded(path, frame):
    """A frame by counting from the start."""
    with av.open(str(path)) as container:
        return next(picture for i, picture in enumerate(container.decode(video=0)) if i == frame).to_image()


def hcstvg(folder):
    """500 frames, 20 s; the tube is frames 100 to 299, which the raw file counts from 1."""
    write_video(folder / "hcstvg/55_x.mp4", 500, (100, 300), hcstvg_box)
    x1, y1, x2, y2 = np.array([hcstvg_box(frame) for frame in range(100, 300)]).T.tolist()
    raw = {
        "bbox": [[a, b, c - a, d - b] for a, b, c, d in zip(x1, y1, x2, y2)],
        "st_time": 3.9,
        "ed_time": 12.1,
        "img_num": 500,
        "st_frame": 101,
        "caption": "the yellow block goes to the right and down.",
        "width": WIDTH,
        "height": HEIGHT,
    }
    return {"annotations": write_json(folder / "raw/train.json", {"55_x.mp4": raw}), "split": "train"}


def vidstg(folder):
    """80 frames; the used segment is frames 8 to 71, the span 16 to 59, and few of its frames carry a box."""
    write_video(folder / "vidor/1017/42.mp4", 80, (0, 80), vidstg_box)
    trajectories = [[] for _ in range(80)]
    for frame in (16, 26, 36, 46, 56, 59):
        corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), vidstg_box(frame)))
        trajectories[frame] = [{"tid": 0, "bbox": corners, "generated": 0, "tracker": "none"}]

    video = {"frame_count": 80, "fps": float(FPS), "width": WIDTH, "height": HEIGHT}
    objects = {"subject/objects": [{"tid": 0, "category": "toy"}, {"tid": 1, "category": "dog"}]}
    vidor = {"version": "VERSION 1.0", "video_id": "42", "video_hash": "0", "video_path": "1017/42.mp4"}
    write_json(
        folder / "raw/vidor/1017/42.json",
        {**vidor, **video, **objects, "trajectories": trajectories, "relation_instances": []},
    )
    relation = {"subject_tid": 0, "object_tid": 1, "predicate": "away", "begin_fid": 16, "end_fid": 60}
    entry = {
        "vid": "42",
        **video,
        **objects,
        "used_segment": {"begin_fid": 8, "end_fid": 71},
        "used_relation": relation,
        "temporal_gt": {"begin_fid": 16, "end_fid": 60},
        "captions": [{"description": "a toy goes away from a dog", "type": "object", "target_id": 0}],
        "questions": [],
    }
    annotations = write_json(folder / "raw/train_annotations.json", [entry])
    return {"annotations": annotations, "boxes": folder / "raw/vidor", "split": "train"}


def refcoco(folder):
    name = "COCO_train2014_000000000009.jpg"
    (folder / "coco/train2014").mkdir(parents=True)
    Image.fromarray(painted(REC_BOX)).save(folder / "coco/train2014" / name, quality=95)
    x1, y1, x2, y2 = map(float, REC_BOX)
    instances = {
        "images": [{"id": 9, "file_name": name, "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 7, "image_id": 9, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}],
        "categories": [{"id": 1, "name": "block"}],
    }
    sentence = {"raw": "Yellow block", "sent": "yellow block", "sent_id": 3, "tokens": ["yellow", "block"]}
    ref = {
        "ref_id": 1,
        "ann_id": 7,
        "image_id": 9,
        "category_id": 1,
        "file_name": name.replace(".jpg", "_7.jpg"),
        "split": "train",
        "sent_ids": [3],
        "sentences": [sentence],
    }
    write_json(folder / "raw/refer/refcoco/instances.json", instances)
    (folder / "raw/refer/refcoco/refs(unc).p").write_bytes(pickle.dumps([ref], protocol=2))
    return {"refer_dir": folder / "raw/refer", "dataset_name": "refcoco", "split": "train"}


SOURCES = {"hcstvg-v1": hcstvg, "vidstg": vidstg, "refcoco": refcoco}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset_dir with what the converters made, checked."""
    folder = tmp_path_factory.mktemp("round_trip")
    names = []
    for source, write in SOURCES.items():
        out = folder / f"{source}.jsonl"
        made = converted(source, out, **write(folder))
        assert len(made.rows) == 1
        names += [name for name, entry in made.info.items() if entry["file_name"] == out.name]
        assert main(["check", str(out), "--media-dir", str(folder), "--decode", "--workers", "1"]) == 0

    return SimpleNamespace(folder=folder, names=names)


def batch_of(base, data, out, backbone):
    """The rows as one batch."""
    options = {"dataset": ",".join(data.names), "template": TEMPLATES[backbone], "video_max_pixels": 64 * 64}
    return model_and_batch(arguments(base, data.folder, out, backbone, **options), len(SOURCES))[1]


# Six frames, uniform: HC-STVG's 500 frames give 0, 100, 200, 299, 399, 499 and the span is [100, 300); VidSTG's clip
# [8, 72) gives 8, 21, 33, 46, 58, 71 and the span is [16, 60), where only frame 46 of these carries a raw box. Where
# the backbone merges two frames, the query's frame is the middle of a pair, rounded down.
SEEN = {
    6: ([0, 100, 200, 299, 399, 499], [8, 21, 33, 46, 58, 71]),
    3: ([50, 249, 449], [14, 39, 64]),
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_boxes_that_reach_the_loss_are_the_raw_boxes(tiny_base, data, tmp_path, backbone):
    batch = batch_of(tiny_base(backbone), data, tmp_path / "out", backbone)
    layout, targets = Layout.unpack(batch["staq_layout"]), from_bits(batch["box_targets"])
    hcstvg, vidstg = SEEN[int(layout.num_frames[0])]
    tubes = [
        ("hcstvg/55_x.mp4", hcstvg, (100, 300), hcstvg_box),
        ("vidor/1017/42.mp4", vidstg, (16, 60), vidstg_box),
    ]
    query = 0
    for path, seen, (start, end), raw_box in tubes:
        for index, frame in enumerate(seen):
            assert layout.frame_index[query] == index and layout.num_frames[query] == len(seen)
            # The time that the model is told, back in native frames.
            assert math.floor(layout.milliseconds[query] * FPS / 1000 + 1e-6) == frame
            if start <= frame < end:
                box = pixel_box(targets[query].tolist(), WIDTH, HEIGHT)
                assert box == pytest.approx(raw_box(frame), abs=0.5)
                assert box == pytest.approx(coloured(decoded(data.folder / path, frame)), abs=1)
            else:
                assert targets[query].isnan().all()

            query += 1

    assert layout.frame_index[query] == -1
    box = pixel_box(targets[query].tolist(), WIDTH, HEIGHT)
    assert box == pytest.approx(REC_BOX, abs=0.5)
    image = Image.open(data.folder / "coco/train2014/COCO_train2014_000000000009.jpg")
    assert box == pytest.approx(coloured(image), abs=1)
    assert len(targets) == len(layout.frame_index) == query + 1
    assert torch.isfinite(targets).all(-1).sum() == (3 + 4 if len(hcstvg) == 6 else 1 + 1) + 1
