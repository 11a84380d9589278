"""Tubes in the formats of other tools, read back by each format's own rules."""

import csv
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from conftest import write_image, write_video
from exporting import (
    expected,
    image_record,
    read_coco,
    read_csv,
    read_cvat,
    read_label_studio,
    read_youtube_vis,
    record,
    same,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from spacevllm_plugin import exporters
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import AnnotationRow, PredictionRow, RowError, dump_row, read_rows
from spacevllm_plugin.exporters import ExportError
from spacevllm_plugin.inference.render import PREDICTION_COLOR, TARGET_COLOR


READERS = {
    "csv": read_csv,
    "coco": read_coco,
    "youtube-vis": read_youtube_vis,
    "label-studio": read_label_studio,
}
BOXES = tuple(READERS) + ("cvat",)


def write_and_read(name, tubes):
    exporter = exporters.get(name)
    with TemporaryDirectory() as folder:
        out = Path(folder) / f"out{exporter.suffix}"
        exporter.write(out, tubes)
        return read_cvat(out, [tube.id for tube in tubes]) if name == "cvat" else READERS[name](out)


numbers = st.floats(-30, 130, width=32)


@st.composite
def predictions(draw, name="a", media="videos/v.mp4"):
    """Any boxes at any frames: sampled thinly, off the picture, empty; any span, also none."""
    boxes = draw(st.dictionaries(st.integers(0, 24), st.tuples(*[numbers] * 4), min_size=1, max_size=8))
    boxes = {frame: (min(a, c), min(b, d), max(a, c), max(b, d)) for frame, (a, b, c, d) in sorted(boxes.items())}
    start = draw(st.integers(0, 23))
    span = draw(st.none() | st.integers(start + 1, 26).map(lambda end: (start, end)))
    return record(name, span, boxes, media, count=25, status="ok" if span else "unreadable")


@pytest.mark.parametrize("name", BOXES)
@settings(max_examples=60, deadline=None)
@given(tubes=st.tuples(predictions("a"), predictions("b")))
def test_what_is_read_back_is_the_tube_at_every_native_frame(name, tubes):
    assert same(write_and_read(name, list(tubes)), tubes)


@pytest.mark.parametrize("name", READERS)
def test_several_videos_and_images_in_one_file(name):
    tubes = [
        record("a"),
        record("b", span=(0, 12), media="w.mp4"),
        record("c", span=(11, 12)),
        image_record("i"),
        record("d", media=tuple(f"frames/{number:03d}.png" for number in range(12))),
        image_record("j", media="images/j.png"),
    ]
    assert same(write_and_read(name, tubes), tubes)


def test_images_for_cvat_are_one_task():
    tubes = [image_record("i"), image_record("j", box=(0, 0, 100, 80), media="j.png")]
    assert same(write_and_read("cvat", tubes), tubes)


@pytest.mark.parametrize("name", BOXES)
def test_what_is_not_there_leaves_a_file_without_boxes(name, tmp_path):
    tubes = [
        record("unreadable", span=None, status="unreadable"),
        record("failed", span=None, boxes={}, status="failed"),
        record("boxless", boxes={}),
        record("outside", boxes={0: (200, 200, 300, 300)}),
    ]
    assert not any(expected(tube) for tube in tubes)
    assert write_and_read(name, tubes) == {}
    assert write_and_read(name, [image_record(box=None)]) == {}


@pytest.mark.parametrize("name", BOXES)
def test_a_clip_keeps_native_frame_numbers(name):
    tubes = [record("a", span=(1, 30), count=25, clip=(4, 20)), record("b", span=(12, 25), count=25, clip=(10, 25))]
    assert expected(tubes[0]).keys() == set(range(4, 20))
    assert same(write_and_read(name, tubes), tubes)


def test_json_is_the_prediction_row(tmp_path):
    tubes = [record("a"), record("failed", span=None, boxes={}, status="failed")]
    exporters.get("json").write(tmp_path / "out.jsonl", tubes)
    assert list(read_rows(tmp_path / "out.jsonl", PredictionRow)) == [tube.prediction for tube in tubes]


def test_names_of_frames(tmp_path):
    tubes = [record("a", count=3), image_record(), record("b", count=2, media=("f/x.png", "f/y.png"))]
    exporters.get("coco").write(tmp_path / "coco.json", tubes)
    exporters.get("youtube-vis").write(tmp_path / "vis.json", tubes)
    names = [f"videos/v/00000{number}.jpg" for number in range(3)], ["images/i.png"], ["f/x.png", "f/y.png"]
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [name for group in names for name in group]
    videos = json.loads((tmp_path / "vis.json").read_text())["videos"]
    assert [video["file_names"] for video in videos] == list(names)


def test_sentences_of_any_letters(tmp_path):
    query = 'a <b> & "c"\x00\x1b 男\n\U0001f600'
    tubes = [record()]
    object.__setattr__(tubes[0], "query", query)
    for name in BOXES:
        exporters.get(name).write(tmp_path / name, tubes)

    attribute = next(ElementTree.parse(tmp_path / "cvat").getroot().iter("box")).find("attribute")
    assert attribute.text == query.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert json.loads((tmp_path / "coco").read_text())["tracks"][0]["query"] == query
    with open(tmp_path / "csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["query"] == query


def test_boxes_of_others_that_are_no_numbers():
    boxes = {0: (10, 10, 20, 20), 4: (10, 10, math.inf, 20), 8: (10, 10, 20, 20)}
    found = write_and_read("cvat", [record(span=(0, 12), boxes=boxes)])["a"]
    assert found.keys() == {0, 8, 9, 10, 11}


def test_what_a_format_cannot_hold(tmp_path):
    for name, tubes, reason in (
        ("cvat", [record(), record(media="w.mp4")], "one video"),
        ("mp4", [image_record()], "for videos"),
        ("coco", [], "no tube"),
    ):
        with pytest.raises(ExportError, match=reason):
            exporters.get(name).write(tmp_path / "out", tubes)

    with pytest.raises(ExportError, match="coco"):
        exporters.get("voc")

    with pytest.raises(RowError, match="frames must increase"):
        exporters.get("coco").write(tmp_path / "out", [record(boxes={5: (0, 0, 9, 9), 2: (0, 0, 9, 9)})])

    assert not (tmp_path / "out").exists()


def has_color(image, color, box):
    pixels = np.asarray(image.convert("RGB").crop(box)).astype(int)
    return bool((np.abs(pixels - ImageColor.getrgb(color)).max(axis=-1) < 30).any())


@pytest.fixture
def drawn(tmp_path):
    tube = record(media=write_video(tmp_path / "v.mp4", 12, 96, 80, fps=2))
    return tube, tmp_path


def test_mp4_shows_the_box_inside_the_span(drawn):
    tube, folder = drawn
    exporters.get("mp4").write(folder / "out.mp4", [tube])
    with av.open(str(folder / "out.mp4")) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]

    scale = images[0].width // 96
    for number, image in enumerate(images):
        x1, y1, x2, _ = expected(tube).get(number, (0, 0, 0, 0))
        if number in expected(tube):
            top = image.height - 80 * scale  # roughly: the sentence stands above, a bar below
            assert has_color(image, PREDICTION_COLOR, (x1 * scale, 0, x2 * scale, y1 * scale + top))


def test_gif_is_small_and_plays_as_long(drawn):
    tube, folder = drawn
    exporters.get("gif").write(folder / "out.gif", [tube])
    image = Image.open(folder / "out.gif")
    lengths = []
    for number in range(image.n_frames):
        image.seek(number)
        lengths.append(image.info["duration"])

    assert image.n_frames == 12 and sum(lengths) == pytest.approx(6000) and max(image.size) <= 480


def test_gif_of_a_long_video_is_no_longer(tmp_path):
    media = write_video(tmp_path / "long.mp4", 300, 192, 48, fps=2)
    tubes = [record(name, media=media, count=300, span=(0, 300), boxes={0: (0, 0, 20, 20)}) for name in "abc"]
    exporters.get("gif").write(tmp_path / "out.gif", tubes)
    image = Image.open(tmp_path / "out.gif")
    assert image.n_frames == 60 and max(image.size) <= 480
    assert (tmp_path / "out.gif").stat().st_size < 4 << 20


def test_the_truth_is_drawn_beside_one_tube(drawn):
    tube, folder = drawn
    truth = AnnotationRow.model_validate(
        {
            "id": "a",
            "task": "stvg",
            "messages": [{"role": "user", "content": "<video>x"}],
            "videos": ["v.mp4"],
            "media": {"width": 96, "height": 80, "fps": 2, "num_frames": 12},
            "target": {"span_frames": [0, 12], "span_seconds": [0, 6], "frames": [0], "boxes": [[40, 40, 90, 70]]},
        }
    )
    for shown in (None, truth):
        object.__setattr__(tube, "truth", shown)
        exporters.get("gif").write(folder / "out.gif", [tube])
        image = Image.open(folder / "out.gif")
        assert has_color(image, TARGET_COLOR, (0, 0, *image.size)) == (shown is not None)


# The command


@pytest.fixture
def rows(tmp_path):
    """Rows of all tasks, and predictions of every status."""
    for name in ("v", "w"):
        write_video(tmp_path / f"{name}.mp4", 12, fps=2)

    (tmp_path / "frames").mkdir()
    for number in range(3):
        write_image(tmp_path / "frames" / f"{number}.png", number)

    write_image(tmp_path / "i.png")
    target = {"span_frames": [2, 8], "span_seconds": [1, 4], "frames": [2, 7], "boxes": [[4, 4, 20, 20]] * 2}
    media = {"width": 48, "height": 48, "fps": 2, "num_frames": 12}

    def row(name, task, **columns):
        tag = "<image>" if "images" in columns else "<video>"
        return {"id": name, "task": task, "messages": [{"role": "user", "content": f"{tag}the man"}], **columns}

    short = {**target, "span_frames": [0, 2], "span_seconds": [0, 1], "frames": [0], "boxes": [[4, 4, 20, 20]]}
    box = {"frames": [0], "boxes": [[4, 4, 20, 20]]}
    data = [
        *(row(name, "stvg", videos=["v.mp4"], media=media, target=target) for name in ("ok", "no span", "failed")),
        row("other", "stvg", videos=["w.mp4"], media=media, target=target),
        row("folder", "stvg", videos=["frames"], media={**media, "num_frames": 3}, target=short),
        row("missing", "stvg", videos=["w.mp4"], media=media, target=target),
        row("image", "rec", images=["i.png"], media={"width": 48, "height": 48}, target=box),
        row("vtg", "vtg", videos=["v.mp4"], target={"span_seconds": [1, 4]}),
    ]
    found = {"span_frames": [2, 8], "span_seconds": [1.0, 4.0], "frames": [0, 11], "boxes": [[2, 2, 20, 20]] * 2}
    answers = [
        {"id": "ok", **found},
        {"id": "no span", "status": "unreadable", "frames": [0], "boxes": [[2, 2, 20, 20]]},
        {"id": "failed", "status": "failed", "error": "v.mp4: broken"},
        {"id": "other", **found},
        {"id": "folder", **found, "span_frames": [0, 2], "span_seconds": [0.0, 1.0]},
        {"id": "image", **box},
        {"id": "vtg", "span_seconds": [1.0, 4.0]},
    ]
    with open(tmp_path / "rows.jsonl", "w") as file:
        file.writelines(dump_row(AnnotationRow.model_validate(line)) + "\n" for line in data)

    with open(tmp_path / "pred.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in answers)

    return tmp_path


def export(folder, name, out, *options):
    return main(
        ["export-tubes", "--data", str(folder / "rows.jsonl"), "--pred", str(folder / "pred.jsonl")]
        + ["--format", name, "--out", str(out), *options]
    )


@pytest.mark.parametrize("name", ["json", *READERS])
def test_command_writes_one_file_and_counts_the_rest(rows, name, capsys):
    out = rows / "out/tubes"
    assert export(rows, name, out, "--media-prefix", "http://x/") == 0
    line = capsys.readouterr().out.strip()
    assert line == (f"4 tubes (1 without a prediction, 1 of tasks without boxes, 1 unreadable, 1 failed): {out}")
    if name != "json":
        assert READERS[name](out).keys() == {"ok", "other", "folder", "image"}
        assert "http://x/v" in out.read_text() and "http://x/frames" in out.read_text()


@pytest.mark.parametrize("name", ["cvat", "mp4", "gif"])
def test_command_writes_a_file_for_each_medium(rows, name, capsys):
    assert export(rows, name, rows / "out") == 0
    suffix = exporters.get(name).suffix
    images = {"images"} if name == "cvat" else set()
    assert {path.name for path in (rows / "out").iterdir()} == {
        f"{stem}{suffix}" for stem in {"v", "w", "frames"} | images
    }
    assert ("1 on images" in capsys.readouterr().out) == (name != "cvat")


def test_command_goes_on_behind_a_broken_video(rows, capsys):
    (rows / "v.mp4").write_text("broken")
    assert export(rows, "mp4", rows / "out") == 1
    error = capsys.readouterr().err
    assert "v.mp4" in error and "1 of 3 files" in error and (rows / "out/w.mp4").exists()


def test_command_replaces_no_input(rows, capsys):
    assert export(rows, "mp4", rows) == 2
    assert export(rows, "coco", rows / "rows.jsonl") == 2
    assert "v.mp4 is a medium of the rows" in capsys.readouterr().err


def test_command_without_anything_to_write(rows, capsys):
    (rows / "pred.jsonl").write_text("")
    assert export(rows, "coco", rows / "out.json") == 1
    assert "nothing to write: 7 without a prediction" in capsys.readouterr().err
    assert not (rows / "out.json").exists()
