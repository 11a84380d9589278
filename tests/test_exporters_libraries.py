"""Exported files in the hands of the tools' own libraries, where they are installed.

None of these is among the `dev` extra: they ask for other releases of Pillow and NumPy than LLaMA-Factory. In an environment
of their own, without torch: `pip install datumaro label-studio-sdk pytest av filelock pydantic pyyaml`, then
`PYTHONPATH=. pytest --noconftest tests/test_exporters_libraries.py`.
"""

import json

import pytest
from exporting import corners, image_record, pixels, record, same

from spacevllm_plugin import exporters
from spacevllm_plugin.exporters.label_studio import IMAGE_INTERFACE, VIDEO_INTERFACE


def write(name, tubes, folder):
    out = folder / f"out{exporters.get(name).suffix}"
    exporters.get(name).write(out, tubes)
    return out


@pytest.fixture
def tubes():
    away = {0: (0, 0, 20, 20), 5: (140, 10, 160, 40), 11: (0, 30, 90, 70)}  # off the picture in between
    return [record("a"), record("b", span=(0, 12), boxes=away), record("c", span=None, status="unreadable")]


def test_datumaro_reads_tracks_of_cvat(tubes, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    found = {}
    for item in datumaro.Dataset.import_from(str(write("cvat", tubes, tmp_path)), "cvat"):
        for box in item.annotations:
            if not box.attributes["outside"]:
                assert box.attributes["query"] == tubes[0].query
                found.setdefault("ab"[box.attributes["track_id"]], {})[item.attributes["frame"]] = box.points

    assert same(found, tubes)


def test_datumaro_reads_images_of_cvat(tmp_path):
    datumaro = pytest.importorskip("datumaro")
    tubes = [image_record("i"), image_record("j", media="j.png")]
    items = list(datumaro.Dataset.import_from(str(write("cvat", tubes, tmp_path)), "cvat"))
    assert [item.id for item in items] == ["images/i", "j"]
    assert same({tube.id: {0: item.annotations[0].points} for tube, item in zip(tubes, items)}, tubes)


def test_datumaro_reads_a_video_of_cvat_without_tubes(tubes, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    assert len(datumaro.Dataset.import_from(str(write("cvat", tubes[2:], tmp_path)), "cvat")) == 0


def test_datumaro_reads_coco(tubes, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    (tmp_path / "annotations").mkdir()
    exporters.get("coco").write(tmp_path / "annotations/instances_tubes.json", tubes)
    dataset = datumaro.Dataset.import_from(str(tmp_path), "coco_instances")
    boxes = [[*annotation.get_bbox()] for item in dataset for annotation in item.annotations]
    assert len(dataset) == 12 and len(boxes) == sum(len(tube.tube.frames) for tube in tubes)
    written = [
        box.tolist() for frame in range(12) for tube in tubes for box in tube.tube.boxes[tube.tube.frames == frame]
    ]
    assert [corners(*box) for box in boxes] == [pytest.approx(box, abs=0.011) for box in written]


@pytest.mark.parametrize("images", [False, True])
def test_label_studio_accepts_every_region(tubes, images, tmp_path):
    interfaces = pytest.importorskip("label_studio_sdk.label_interface")
    tubes = [image_record("i"), image_record("j", media="j.png")] if images else tubes
    interface = interfaces.LabelInterface(IMAGE_INTERFACE if images else VIDEO_INTERFACE)
    interface.validate()
    tasks = json.loads(write("label-studio", tubes, tmp_path).read_text())
    assert len(tasks) == (2 if images else 1)
    for task in tasks:
        assert task["predictions"][0]["result"]
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction, return_errors=True) == []


def test_label_studio_converts_to_its_other_formats(tubes, tmp_path):
    """Its converter takes annotations: what a user makes of predictions with one click."""
    converter = pytest.importorskip("label_studio_sdk.converter")
    (task,) = json.loads(write("label-studio", tubes, tmp_path).read_text())
    annotation = {"id": 1, "result": task["predictions"][0]["result"]}
    (tmp_path / "in.json").write_text(json.dumps([{"id": 1, "data": task["data"], "annotations": [annotation]}]))
    convert = converter.Converter(VIDEO_INTERFACE, str(tmp_path), download_resources=False)
    convert.convert_to_json(str(tmp_path / "in.json"), str(tmp_path / "out"), is_dir=False)
    ((result,),) = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")]
    first = result["box"][0]["sequence"][0]
    assert first["frame"] == 3 and pixels(first, (100, 80)) == pytest.approx([12, 4, 36, 28], abs=0.02)
