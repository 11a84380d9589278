"""`unistg annotate`: the real Grounding-DINO class with tiny random weights, and what is done with any detector."""

import json

import pytest
import torch
from conftest import picture, write_image, write_video
from PIL import Image
from tiny_detector import write_tiny_detector
from unistg_parts import read_lines, rejected, vtg, write_lines

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.unistg.annotator import Annotator
from spacevllm_plugin.unistg.detector import GroundingDino
from spacevllm_plugin.unistg.rows import Analyzed, Detection
from spacevllm_plugin.unistg.stage import run_stage


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_detector(tmp_path_factory.mktemp("detector") / "tiny")


@pytest.fixture(scope="module")
def detector(checkpoint):
    return GroundingDino(str(checkpoint), threshold=0.3, device="cpu")


IMAGES = [Image.fromarray(picture(number, 64, 48)) for number in range(3)]


def test_real_class_detects_in_batches(detector):
    found = detector.detect(IMAGES, ["red circle", "a man."])
    assert all(found) and len(found) == 3
    for image, detections in zip(IMAGES, found):
        assert [d.score for d in detections] == sorted((d.score for d in detections), reverse=True)
        for d in detections:
            assert d.score >= 0.3 and d.label in (0, 1)
            assert 0 <= d.box[0] < d.box[2] <= 64 and 0 <= d.box[1] < d.box[3] <= 48

        (alone,) = detector.detect([image], ["red circle", "a man."])
        assert [d.label for d in alone] == [d.label for d in detections]
        for a, b in zip(alone, detections):
            assert a.box == pytest.approx(b.box, abs=0.05) and a.score == pytest.approx(b.score, abs=1e-3)

    assert found[0] != found[1]
    assert found[0] != detector.detect(IMAGES[:1], ["blue door", "cup"])[0]


def test_boxes_are_those_of_transformers_own_post_processing(detector):
    """All of ours are among theirs, in pixels; theirs count separators' probabilities too."""
    inputs = detector.processor(images=IMAGES[:1], text="red circle. a man.", return_tensors="pt")
    with torch.inference_mode():
        outputs = detector.model(**inputs)

    (theirs,) = detector.processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=0.3, target_sizes=[(48, 64)]
    )
    ours = detector.detect(IMAGES[:1], ["red circle", "a man"])[0]
    assert ours
    for detection in ours:
        distance = (theirs["boxes"] - torch.tensor(detection.box)).abs().amax(-1)
        assert distance.min() < 0.01


def test_decoding_by_hand(detector):
    """[CLS] red circle . a man . [SEP]: a score is the best of a phrase's tokens, separators count for nothing."""
    ids = detector.processor.tokenizer("red circle. a man.")["input_ids"]
    assert len(ids) == 8
    low, high = -9.0, 9.0  # probabilities .0001 and .9999
    logits = torch.full((1, 4, 256), float("-inf"))
    logits[..., :8] = low
    logits[0, 0, 2] = high  # circle
    logits[0, 1, 5] = 0.0  # man, .5
    logits[0, 1, 1] = -0.5  # red, .3775
    logits[0, 2, [0, 3, 7]] = high  # separators
    logits[0, 3, 4] = -0.8472978603872037  # a, .3 exactly
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.25], [0.0, 0.0, 0.5, 0.5], [0.5] * 4, [0.25, 0.5, 0.5, 1.0]]])
    detector.threshold = 0.2999
    try:
        (found,) = detector.decode(logits, boxes, torch.tensor(ids), 2, [(200, 100)])
    finally:
        detector.threshold = 0.3

    assert found == [
        Detection(label=0, score=0.9999, box=(50, 37.5, 150, 62.5)),
        Detection(label=1, score=0.5, box=(0, 0, 50, 25)),  # cut at the image's edge
        Detection(label=1, score=0.3, box=(0, 0, 100, 100)),
    ]


def test_phrases_with_full_stops_stay_one(detector):
    """A full stop or question mark inside a phrase would begin another one."""
    dotted = detector.detect(IMAGES[:1], ["the man. in? red", "cup."])
    assert dotted[0] and dotted == detector.detect(IMAGES[:1], ["The man in red", "cup"])


def analyzed(row_id, num_frames=12, **row):
    source = vtg(row_id, fps=4.0, num_frames=num_frames, size=(48, 48), **row)
    return Analyzed(id=row_id, source=source, objects=["red circle", "man"])


def test_command_with_the_real_class(checkpoint, tmp_path, capsys):
    write_video(tmp_path / "v.mp4", 12)
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    folder = tmp_path / "frames"
    folder.mkdir()
    frames = [f"frames/{write_image(folder / f'{i}.png', i).rsplit('/', 1)[1]}" for i in range(12)]
    rows = [
        analyzed("good", span=(3, 9)),
        analyzed("broken", span=(0, 4), video="broken.mp4"),
        analyzed("nowhere", span=(0, 4), video="nowhere.mp4"),
        analyzed("frames", span=(0, 4)),
        analyzed("wide", span=(0, 4)),
        analyzed("fast", span=(0, 4)),
        analyzed("long", span=(0, 13), num_frames=13),
    ]
    rows[3].source.videos = [frames]
    rows[4].source.media.width = 96
    rows[5].source.media.fps = 5.0
    data = write_lines(tmp_path / "in.jsonl", [row.model_dump_json(exclude_none=True) for row in rows])
    out = tmp_path / "out.jsonl"
    command = ["unistg", "annotate", "--data", str(data), "--media-dir", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--out", str(out), "--detector", str(checkpoint), "--batch-size", "4"]) == 0
    made = {row["id"]: row for row in read_lines(out)}
    assert list(made) == ["good", "frames"]
    assert [frame["frame"] for frame in made["good"]["frames"]] == [3, 4, 5, 6, 7, 8]
    assert [frame["seconds"] for frame in made["good"]["frames"]][:2] == [[0.75, 1.0], [1.0, 1.25]]
    scores = [d["score"] for row in made.values() for frame in row["frames"] for d in frame["detections"]]
    assert scores and min(scores) >= 0.3
    assert rejected(out) == {
        "broken": "unreadable",
        "nowhere": "unreadable",
        "wide": "media_differs",
        "fast": "media_differs",
        "long": "media_differs",
    }
    counts = json.loads((tmp_path / "out.jsonl.counts.json").read_text())
    assert counts["totals"] == {"boxes": len(scores), "frames": 10}
    assert "unreadable" in capsys.readouterr().out

    # A threshold that no box reaches.
    out = tmp_path / "none.jsonl"
    assert main([*command, "--out", str(out), "--detector", str(checkpoint), "--threshold", "1"]) == 0
    assert rejected(out)["good"] == "nothing_found" and not out.read_text()

    assert main([*command, "--out", str(tmp_path / "x.jsonl"), "--detector", str(tmp_path / "frames")]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("spacevllm-cli unistg: annotate: ")


class Scripted:
    """Finds what it is told by the picture's number, and remembers its batches."""

    def __init__(self, label):
        self.label, self.batches = label, []

    def detect(self, images, phrases):
        self.batches.append(len(images))
        return [[Detection(label=self.label, score=0.5, box=(0, 0, 9, 9))] for _ in images]


def test_stride_and_batches(tmp_path):
    write_video(tmp_path / "v.mp4", 12)
    data = write_lines(tmp_path / "in.jsonl", [analyzed("a", span=(1, 12)), analyzed("b", span=(0, 2))])
    detector = Scripted(label=0)
    run_stage(Annotator(detector, tmp_path, {}, stride=2, batch_size=4), data, tmp_path / "out.jsonl")
    first, second = read_lines(tmp_path / "out.jsonl")
    assert [frame["frame"] for frame in first["frames"]] == [1, 3, 5, 7, 9, 11]
    assert [frame["frame"] for frame in second["frames"]] == [0]
    assert detector.batches == [4, 2, 1]


def test_rows_that_count_in_seconds_only_get_the_file_s_facts(tmp_path):
    """12 frames at 4 a second; 0.5 to 1.6 s are frames 2 to 5 (6.4 is nearest to 6)."""
    write_video(tmp_path / "v.mp4", 12)
    rows = [analyzed("a", span=(0, 4)), analyzed("late", span=(0, 4))]
    for row, span in zip(rows, ((0.5, 1.6), (3.0, 4.0))):
        row.source.media = None
        row.source.target.span_frames, row.source.target.span_seconds = None, span

    data = write_lines(tmp_path / "in.jsonl", [row.model_dump_json(exclude_none=True) for row in rows])
    run_stage(Annotator(Scripted(label=0), tmp_path, {}), data, tmp_path / "out.jsonl")
    (made,) = read_lines(tmp_path / "out.jsonl")
    assert [frame["frame"] for frame in made["frames"]] == [2, 3, 4, 5]
    assert made["source"]["media"] == {"width": 48, "height": 48, "fps": 4.0, "num_frames": 12}
    assert made["source"]["target"] == {"span_frames": [2, 6], "span_seconds": [0.5, 1.6]}
    assert rejected(tmp_path / "out.jsonl") == {"late": "media_differs"}


def test_another_object_alone_is_nothing_found(tmp_path):
    write_video(tmp_path / "v.mp4", 12)
    data = write_lines(tmp_path / "in.jsonl", [analyzed("a", span=(0, 4))])
    run_stage(Annotator(Scripted(label=1), tmp_path, {}), data, tmp_path / "out.jsonl")
    (reject,) = read_lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert reject["reason"] == "nothing_found" and "'red circle'" in reject["detail"]
