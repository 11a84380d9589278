"""The synthetic set: what it promises about its tubes, its splits and its chance level."""

import json
from itertools import product

import av
import numpy as np
import pytest
from PIL import Image

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.prompts import answer, instruction
from spacevllm_plugin.data.schema import TASKS, read_rows
from spacevllm_plugin.data.span_parser import read_span
from spacevllm_plugin.data.synthetic import (
    COLOURS,
    FORMS,
    HELD_OUT,
    SHAPES_PER_VIDEO,
    SHIFT_COLOURS,
    SynthConfig,
    make_scene,
    scene_rows,
    write_set,
)
from spacevllm_plugin.evaluation import constant_baseline


def make_rows(config):
    return [row for index in range(config.num_videos) for row in scene_rows(config, make_scene(config, index))]


def make_scenes(**options):
    config = SynthConfig(**options)
    return [make_scene(config, index) for index in range(config.num_videos)]


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def looks(row):
    """Colour and form that a row names."""
    _, colour, form, *_ = row.query.split()
    return colour, form


def test_same_seed_same_set(tmp_path):
    config = SynthConfig(num_videos=3, seed=7, tasks=TASKS)
    write_set(tmp_path / "a", config)
    write_set(tmp_path / "b", config)
    assert (tmp_path / "a/annotations.jsonl").read_bytes() == (tmp_path / "b/annotations.jsonl").read_bytes()
    for path in (tmp_path / "a/videos").iterdir():
        assert (decode(path) == decode(tmp_path / "b/videos" / path.name)).all()


@pytest.mark.parametrize("shift", [False, True])
def test_first_videos_do_not_depend_on_how_many(shift):
    short, long = make_scenes(num_videos=2, shift=shift), make_scenes(num_videos=4, shift=shift)
    for a, b in zip(short, long):
        assert a.shapes == b.shapes
        assert (a.frames == b.frames).all()


def test_splits_and_seeds_share_no_scene():
    tubes = [
        tuple(shape.boxes for shape in scene.shapes)
        for split, shift, seed in product(("train", "heldout"), (False, True), (0, 1))
        for scene in make_scenes(num_videos=50, split=split, shift=shift, seed=seed)
    ]
    assert len(set(tubes)) == len(tubes) == 400


@pytest.mark.parametrize("shift", [False, True])
def test_held_out_pairs(shift):
    train, heldout = (SynthConfig(num_videos=150, split=split, shift=shift) for split in ("train", "heldout"))
    shown = {(shape.colour, shape.form) for index in range(150) for shape in make_scene(train, index).shapes}
    assert not shown & set(train.held_out)
    assert not {looks(row) for row in make_rows(train)} & set(train.held_out)
    assert {looks(row) for row in make_rows(heldout)} == set(train.held_out)
    for colour, form in train.held_out:
        assert any(colour == shown_colour for shown_colour, _ in shown)
        assert any(form == shown_form for _, shown_form in shown)


def test_shift_has_a_new_colour_and_backgrounds():
    assert len(COLOURS) * len(FORMS) == 18 and len(HELD_OUT) == 4
    plain, shifted = make_scenes(num_videos=30), make_scenes(num_videos=30, shift=True)
    assert {shape.colour for scene in shifted for shape in scene.shapes} == {*COLOURS, *SHIFT_COLOURS}
    assert (np.median(plain[0].frames, axis=(0, 1, 2)) == 0).all()
    assert all(np.median(scene.frames) > 0 for scene in shifted)


def without(picture, shapes, frame):
    """The picture with some shapes blanked, and the pixel around them that the codec blurs."""
    picture = picture.copy()
    for shape in shapes:
        if frame in range(*shape.span):
            x1, y1, x2, y2 = shape.boxes[frame - shape.span[0]]
            picture[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = 0

    return picture


@pytest.mark.parametrize("options", [{}, {"size": 64, "num_frames": 24, "fps": 4.0}])
def test_boxes_fit_the_decoded_pixels(tmp_path, options):
    config = SynthConfig(num_videos=4, **options)
    write_set(tmp_path, config)
    for index in range(config.num_videos):
        scene = make_scene(config, index)
        frames = decode(tmp_path / "videos" / f"{scene.name}.mp4")
        assert frames.shape == scene.frames.shape
        visible = np.zeros(len(frames), dtype=int)
        for shape in scene.shapes:
            for frame, box in zip(range(*shape.span), shape.boxes):
                visible[frame] += 1
                x1, y1, x2, y2 = np.maximum(np.array(box) - 2 * np.array([1, 1, -1, -1]), 0)
                alone = without(frames[frame], [o for o in scene.shapes if o is not shape], frame)
                rows, columns = np.nonzero(alone[y1:y2, x1:x2].max(axis=-1) > 90)
                found = [columns.min() + x1, rows.min() + y1, columns.max() + x1 + 1, rows.max() + y1 + 1]
                assert np.abs(np.array(found) - box).max() <= 1.5
                colour = frames[frame, (box[1] + box[3]) // 2, (box[0] + box[2]) // 2].astype(int)
                assert np.abs(colour - config.colours[shape.colour]).max() < 40

        # Nothing is drawn outside the spans.
        assert (frames[visible == 0] < 40).all()


def test_shapes_are_told_apart_by_sentence_and_time():
    for scene in make_scenes(num_videos=100):
        assert len({(shape.colour, shape.form) for shape in scene.shapes}) == SHAPES_PER_VIDEO
        for shape in scene.shapes:
            start, end = shape.span
            assert 0 <= start < end <= 12 and 2 <= end - start <= 4
            step = np.subtract(shape.boxes[-1], shape.boxes[0])[:2]
            axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[shape.direction]
            assert step[axis] * sign >= 6 and step[1 - axis] == 0
            for other in scene.shapes:
                assert other is shape or other.span != shape.span


@pytest.mark.parametrize("options", [{}, {"split": "heldout"}, {"split": "heldout", "shift": True, "seed": 3}])
def test_a_constant_answer_scores_low(options):
    chance = constant_baseline(make_rows(SynthConfig(num_videos=200, **options)))
    assert chance["m_tIoU"] <= 0.30
    assert chance["m_sIoU"] <= 0.15
    assert chance["m_vIoU"] <= 0.05


def test_cli_writes_everything(tmp_path, capsys):
    code = main(
        ["synth", "--out", str(tmp_path), "--num-videos", "4", "--seed", "7", "--split", "heldout", "--shift"]
        + ["--tasks", "qa,rec,vtg,stvg", "--report"]
    )
    assert code == 0
    assert "m_tIoU" in capsys.readouterr().out
    rows = list(read_rows(tmp_path / "annotations.jsonl"))
    assert {row.task for row in rows} == set(TASKS)
    assert len({row.id for row in rows}) == len(rows)
    assert any(row.id == "synth/shift_heldout/7/v00000/stvg/0" for row in rows)
    assert all((tmp_path / path).is_file() for row in rows for path in [*(row.videos or ()), *(row.images or ())])
    for row in rows:
        if row.task in ("stvg", "vtg"):
            assert read_span(row.messages[-1].content) == pytest.approx(row.target.span_seconds, abs=0.05)

    assert json.loads((tmp_path / "dataset_info.json").read_text()) == {
        "synth_shift_heldout": {"file_name": "annotations.jsonl", "formatting": "spacevllm"}
    }
    assert Image.open(tmp_path / "preview.png").size == (12 * 50, 4 * 50)


def test_background_takes_footage(tmp_path):
    write_set(tmp_path / "plain", SynthConfig(num_videos=1, shift=True))
    footage = str(tmp_path / "plain/videos/v00000.mp4")
    scene_set = tmp_path / "footage"
    write_set(scene_set, SynthConfig(num_videos=1, background=footage))
    behind, written = decode(footage), decode(scene_set / "videos/v00000.mp4")
    assert np.median(np.abs(behind.astype(int) - written)) < 8


@pytest.mark.parametrize(
    "options, code",
    [
        (["--tasks", "stvg,foo"], 2),
        (["--tasks", "vtg", "--report"], 2),
        (["--size", "47"], 2),
        (["--num-frames", "4"], 2),
        (["--num-videos", "0"], 2),
        (["--background", "no.mp4"], 1),
    ],
)
def test_cli_says_in_one_line_what_is_wrong(tmp_path, capsys, options, code):
    assert main(["synth", "--out", str(tmp_path / "out"), *options]) == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "text, span",
    [
        ("From 1.0 to 2.5 seconds.", (1.0, 2.5)),
        ("It happens at 1.0-2.5s, then again 4-5s.", (1.0, 2.5)),
        ("12 s – 18.5 s", (12.0, 18.5)),
        ("00:12 - 01:03.5", (12.0, 63.5)),
        ("from 1:00:02 until 1:00:04", (3602.0, 3604.0)),
        ("From 1.0 to 1.0 seconds.", (1.0, 1.0)),
        ("From 2.5 to 1.0 seconds.", None),
        ("From -1.0 to 2.0 seconds.", None),
        ("At 3 seconds.", (3.0, 3.0)),
        ("", None),
    ],
)
def test_read_span(text, span):
    assert read_span(text) == span


def test_prompts_hold_the_query_and_the_span():
    query = 'the "{odd}" one'
    for task in ("stvg", "vtg", "rec"):
        assert query in instruction(task, query)

    assert read_span(answer("stvg", (1.5, 3.0))) == (1.5, 3.0)
    assert answer("rec")
