"""The referring-expression sets' exact shapes; pickles that want more than plain data."""

import json
import pickle
from pathlib import Path

import pytest
from converting import converted, run_convert, write_json


def sentence(sent_id, sent):
    return {"tokens": sent.split(), "raw": sent.upper(), "sent_id": sent_id, "sent": sent}


def ref(ref_id, ann_id, image_id, split, *sentences):
    return {
        "sent_ids": [s["sent_id"] for s in sentences],
        "file_name": f"COCO_train2014_{image_id:012d}_{ann_id}.jpg",  # with the box's number: no file has this name
        "ann_id": ann_id,
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "sentences": list(sentences),
        "category_id": 1,
    }


REFS = [
    ref(0, 11, 7, "train", sentence(0, "the lady")),
    ref(1, 12, 7, "testA", sentence(3, "man in blue"), sentence(4, "left  guy .")),
    ref(2, 13, 8, "testA", sentence(5, "boy at the edge")),
    ref(3, 14, 9, "testA", sentence(6, "image not listed")),
    ref(4, 99, 8, "testA", sentence(7, "box not listed")),
    ref(5, 15, 8, "testA", sentence(8, "flat")),
    ref(6, 12, 7, "testA", sentence(9, "")),
]

INSTANCES = {
    "info": {},
    "licenses": [],
    "categories": [{"id": 1, "name": "person"}],
    "images": [
        {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 640, "height": 480, "license": 1},
        {"id": 8, "file_name": "COCO_train2014_000000000008.jpg", "width": 500, "height": 375, "license": 1},
    ],
    "annotations": [
        {"id": 11, "image_id": 7, "bbox": [1, 1, 5, 5], "category_id": 1, "segmentation": [], "area": 25},
        {"id": 12, "image_id": 7, "bbox": [103.5, 20.25, 38.25, 210.0], "category_id": 1, "segmentation": []},
        {"id": 13, "image_id": 8, "bbox": [450.0, 10.0, 60.0, 20.0], "category_id": 1, "segmentation": []},
        {"id": 14, "image_id": 9, "bbox": [1, 1, 5, 5], "category_id": 1, "segmentation": []},
        {"id": 15, "image_id": 8, "bbox": [10, 10, 5, 0], "category_id": 1, "segmentation": []},
    ],
}


def refer(folder, dataset="refcoco", maker="unc", refs=REFS, protocol=2):
    """refer's data folder; the published pickles are Python 2's, protocol 0 or 2."""
    write_json(folder / dataset / "instances.json", INSTANCES)
    (folder / dataset / f"refs({maker}).p").write_bytes(pickle.dumps(refs, protocol))
    return folder


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_one_row_for_each_sentence(tmp_path, protocol):
    folder = refer(tmp_path / "data", protocol=protocol)
    out = converted("refcoco", tmp_path / "o.jsonl", refer_dir=folder, dataset_name="refcoco", split="testA")
    blue, left, edge = out.rows
    assert blue["id"] == "refcoco/unc/testA/12/3" and left["id"] == "refcoco/unc/testA/12/4"
    assert (blue["task"], blue["group"], blue["query"]) == ("rec", "refcoco_testA", "man in blue")
    assert left["query"] == "left guy"
    assert blue["images"] == ["coco/train2014/COCO_train2014_000000000007.jpg"]
    assert blue["media"] == {"width": 640, "height": 480}
    # x + w = 103.5 + 38.25, y + h = 20.25 + 210.
    assert blue["target"] == {"frames": [0], "boxes": [[103.5, 20.25, 141.75, 230.25]]}
    assert blue["messages"][0]["content"].startswith("<image>")
    assert edge["target"]["boxes"] == [[450, 10, 500, 30]]
    assert edge["target"]["source_frames"] == [0] and edge["target"]["source_boxes"] == [[450, 10, 510, 30]]
    assert out.summary["dropped"] == {"no_image_entry": 1, "no_box": 1, "empty_box": 1, "no_sentence": 1}
    assert out.summary["repaired"] == {"box_cut_to_frame": 1}
    assert list(out.info) == ["refcoco_testA"]


@pytest.mark.parametrize(
    "dataset, maker, option, name",
    [
        ("refcoco+", "unc", {}, "refcoco_plus_testA"),
        ("refcocog", "umd", {}, "refcocog_testA"),
        ("refcocog", "google", {"split_by": "google"}, "refcocog_google_testA"),
        ("refcoco", "google", {"split_by": "google"}, "refcoco_google_testA"),
    ],
)
def test_all_data_sets_and_split_makers(tmp_path, dataset, maker, option, name):
    folder = refer(tmp_path / "data", dataset, maker)
    out = converted("refcoco", tmp_path / "o.jsonl", refer_dir=folder, dataset_name=dataset, split="testA", **option)
    assert out.ids[0] == f"{dataset}/{maker}/testA/12/3"
    assert list(out.info) == [name]


def test_what_is_not_there_is_named(tmp_path, capsys):
    folder = refer(tmp_path / "data")
    for options, says in (
        ({"dataset_name": "refcoco", "split": "test"}, "no split 'test'; it has testA, train"),
        ({"dataset_name": "refcoco", "split": "val", "split_by": "umd"}, "refcoco has splits by unc and google only"),
        ({"dataset_name": "refcoco", "split": "val", "split_by": "google"}, "refs(google).p does not exist"),
        ({"dataset_name": "refcocog", "split": "val"}, "refcocog does not exist"),
    ):
        assert run_convert("refcoco", tmp_path / "o.jsonl", refer_dir=folder, **options) == 1
        assert says in capsys.readouterr().err.splitlines()[-1]


class Touch:
    """Unpickled the ordinary way, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_malicious_pickle_is_refused_in_one_line(tmp_path, capsys):
    mark = tmp_path / "owned"
    refs = [*REFS, Touch(mark)]
    pickle.loads(pickle.dumps(Touch(mark)))
    assert mark.exists()  # it would work
    mark.unlink()
    for protocol in (0, 2, 4):
        folder = refer(tmp_path / "data", refs=refs, protocol=protocol)
        options = {"refer_dir": folder, "dataset_name": "refcoco", "split": "testA"}
        assert run_convert("refcoco", tmp_path / "o.jsonl", **options) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "not a pickle of plain data (it asks for" in line
        assert not mark.exists() and not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize(
    "data", [b"", b"garbage", pickle.dumps(REFS)[:-9], b"cos\nsystem\n(S'true'\ntR.", b"\x80\x02\x82\x01.", b"I1\nQ."]
)
def test_a_broken_pickle_is_one_line(tmp_path, capsys, data):
    folder = refer(tmp_path / "data")
    (folder / "refcoco/refs(unc).p").write_bytes(data)
    options = {"refer_dir": folder, "dataset_name": "refcoco", "split": "testA"}
    assert run_convert("refcoco", tmp_path / "o.jsonl", **options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "not a pickle of plain data" in line


def mdetr(**join):
    def image(number, caption, **changes):
        entry = {
            "file_name": "COCO_train2014_000000000007.jpg",
            "height": 480,
            "width": 640,
            "id": number,
            "original_id": 7,
            "caption": caption,
            "dataset_name": "refcoco",
        }
        return {**entry, **changes}

    def annotation(number, image_id, box):
        return {
            "area": box[2] * box[3],
            "iscrowd": 0,
            "image_id": image_id,
            "category_id": 1,
            "id": number,
            "bbox": box,
            "tokens_positive": [[0, 3]],
        }

    images = [image(0, "the man"), image(1, "the man"), image(2, "two boxes"), image(3, "no box"), image(4, "the man")]
    boxes = [
        (0, [10, 20, 30, 40]),
        (1, [50, 20, 30.5, 40]),
        (2, [1, 1, 2, 2]),
        (2, [5, 5, 2, 2]),
        (4, [10, 20, 30, 40]),
    ]
    annotations = [annotation(100 + i, image_id, box) for i, (image_id, box) in enumerate(boxes)]
    return {"info": [], "licenses": [], "images": images, "annotations": annotations, "categories": []}


def test_coco_refexp(tmp_path):
    raw = write_json(tmp_path / "finetune_refcoco_val.json", mdetr())
    options = {"annotations": raw, "dataset_name": "refcoco_mdetr", "split": "val"}
    out = converted("coco-refexp", tmp_path / "o.jsonl", **options)
    first, second, again = out.rows
    assert first["id"].startswith("refcoco_mdetr/val/COCO_train2014_000000000007.jpg/10-20-30-40/")
    assert first["target"]["boxes"] == [[10, 20, 40, 60]] and second["target"]["boxes"] == [[50, 20, 80.5, 60]]
    assert first["id"] != second["id"] and again["id"] == first["id"] + "#2"
    assert out.summary["dropped"] == {"several_boxes": 1, "no_box": 1}
    assert list(out.info) == ["refcoco_mdetr_val"]


def test_coco_refexp_joined_by_id_as_llava_st_does(tmp_path):
    data = mdetr()
    for i, item in enumerate(data["annotations"]):
        item["id"], item["image_id"] = i, 7  # the image's number in COCO
    raw = write_json(tmp_path / "val.json", data)
    options = {"annotations": raw, "dataset_name": "x", "split": "val", "join": "id"}
    rows = converted("coco-refexp", tmp_path / "o.jsonl", **options).rows
    assert [row["target"]["boxes"][0][:2] for row in rows] == [[10, 20], [50, 20], [1, 1], [5, 5], [10, 20]]


def test_qwenvl(tmp_path):
    def item(**changes):
        base = {"image": "data/coco/train2014/a.jpg", "sent": "man in blue", "bbox": [103.5, 20.25, 141.75, 230.25]}
        return json.dumps({**base, "width": 640, "height": 480, **changes}) + "\n"

    raw = tmp_path / "refcoco_testA.jsonl"
    raw.write_text(item() + item(sent="left guy") + item(bbox=[5, 5, 5, 9]) + item(bbox=[1, 2, 3]) + item(width=100))
    options = {"annotations": raw, "dataset_name": "refcoco_qwenvl", "split": "testA"}
    out = converted("qwenvl-rec", tmp_path / "o.jsonl", **options, image_folder="pictures")
    first, second = out.rows
    assert first["id"].startswith("refcoco_qwenvl/testA/a.jpg/103.5-20.25-141.75-230.25/")
    assert first["images"] == ["pictures/a.jpg"] and first["media"] == {"width": 640, "height": 480}
    assert first["target"] == {"frames": [0], "boxes": [[103.5, 20.25, 141.75, 230.25]]}
    assert first["id"] != second["id"]
    # A box that starts beyond the image's 100 pixels has nothing in it.
    assert out.summary["dropped"] == {"empty_box": 2, "malformed": 1}
