"""Exported files in the hands of the tools' own libraries, where they are installed.

None of these is among the `dev` extra: they ask for other releases of Pillow and NumPy than LLaMA-Factory. In an environment
of their own, without torch: `pip install datumaro label-studio-sdk pytest av filelock pydantic pyyaml`, then
`PYTHONPATH=. pytest --noconftest tests/test_exporters_libraries.py`.
"""

import json

import pytest
from exporting import corners, expected, image_record, pixels, record, same
from PIL import Image

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
    (tmp_path / "images/images").mkdir(parents=True)
    for tube in tubes:
        Image.new("RGB", (100, 80)).save(tmp_path / "images" / tube.name)

    items = list(datumaro.Dataset.import_from(str(write("cvat", tubes, tmp_path)), "cvat"))
    assert [item.id for item in items] == ["images/i", "j"]
    assert same({tube.id: {0: item.annotations[0].points} for tube, item in zip(tubes, items)}, tubes)


def test_datumaro_reads_a_video_of_cvat_without_tubes(tubes, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    assert len(datumaro.Dataset.import_from(str(write("cvat", tubes[2:], tmp_path)), "cvat")) == 0


def test_datumaro_reads_coco(tubes, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    for number in range(12):
        file = tmp_path / "images" / tubes[0].frame_name(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(file)

    (tmp_path / "annotations").mkdir()
    exporters.get("coco").write(tmp_path / "annotations/instances_tubes.json", tubes)
    dataset = datumaro.Dataset.import_from(str(tmp_path), "coco_instances")
    assert len(dataset) == 12
    found = {}
    for item in dataset:
        # Of each annotation it makes a box and an outline.
        for annotation in item.annotations:
            tube = found.setdefault((annotation.type.name, "ab"[annotation.attributes["track_id"] - 1]), {})
            tube[int(item.id.rpartition("/")[2])] = corners(*annotation.get_bbox())

    for kind in ("bbox", "polygon"):
        assert same({name: boxes for (of, name), boxes in found.items() if of == kind}, tubes)


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


@pytest.mark.parametrize("images", [False, True])
def test_label_studio_converts_to_its_other_formats(tubes, images, tmp_path):
    """Its converter takes annotations: what a user makes of predictions with one click."""
    module = pytest.importorskip("label_studio_sdk.converter.converter")
    tubes = [image_record("i")] if images else tubes[:1]
    (task,) = json.loads(write("label-studio", tubes, tmp_path).read_text())
    annotation = {"id": 1, "result": task["predictions"][0]["result"]}
    (tmp_path / "in.json").write_text(json.dumps([{"id": 1, "data": task["data"], "annotations": [annotation]}]))
    interface = IMAGE_INTERFACE if images else VIDEO_INTERFACE
    converter = module.Converter(interface, str(tmp_path), download_resources=False)
    kind, file = (module.Format.COCO, "result.json") if images else (module.Format.JSON_MIN, "result.json")
    converter.convert(str(tmp_path / "in.json"), str(tmp_path / "out"), kind, is_dir=False)
    result = json.loads((tmp_path / "out" / file).read_text())
    if images:
        (made,) = result["annotations"]
        found = {"i": {0: corners(*made["bbox"])}}
    else:
        ((made,),) = [task["box"] for task in result]
        found = {"a": {keyframe["frame"] - 1: pixels(keyframe, (100, 80)) for keyframe in made["sequence"]}}
        keyframes = found["a"].keys()
        assert keyframes == {2, 5, 7} and made["labels"] == ["object"]
        found["a"] |= {frame: box for frame, box in expected(tubes[0]).items() if frame not in keyframes}

    assert same(found, tubes)
