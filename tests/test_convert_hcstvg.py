"""HC-STVG's exact shapes, v1 and v2, with the traps: frames from 1, times that disagree, boxes that leave the frame."""

import pytest
from converting import converted, run_convert, write_json


def v1(**changes):
    """A clip of 20 s with 200 frames, so 10 frames a second."""
    item = {
        "bbox": [[10, 20, 30, 40], [11, 20, 30, 40], [12, 20, 30, 40]],
        "st_time": 3.0,
        "ed_time": 9.0,  # 6 s, but the tube has three frames
        "img_num": 200,
        "caption": "The man in the red coat\nturns  and opens the door.",
        "width": 640,
        "height": 360,
        "st_frame": 31,
    }
    return {**item, **changes}


def v2(**changes):
    item = {
        "bbox": [[10, 20, 30, 40], [11, 20, 30, 40]],
        "st_time": 0.0,
        "ed_time": 7.0,
        "img_num": 600,
        "img_size": [360, 640],
        "English": "the woman sits down.",
        "Chinese": "女人坐下。",
        "st_frame": 1,
        "ed_frame": 211,  # disagrees with the tube's two frames
    }
    return {**item, **changes}


def test_v1(tmp_path):
    raw = write_json(tmp_path / "test.json", {"55_vfjywN5CN0Y.mp4": v1()})
    out = converted("hcstvg-v1", tmp_path / "hcstvg1/test.jsonl", annotations=raw, split="test")
    (row,) = out.rows
    assert row["id"] == "hcstvg1/test/55_vfjywN5CN0Y.mp4/0"
    assert (row["task"], row["group"]) == ("stvg", "declarative")
    assert row["query"] == "The man in the red coat turns and opens the door"
    assert row["videos"] == ["hcstvg/55_vfjywN5CN0Y.mp4"]
    assert row["media"] == {"width": 640, "height": 360, "fps": 10.0, "num_frames": 200}
    # st_frame 31 counts from 1: frame 30, three boxes; xywh -> xyxy.
    assert row["target"] == {
        "span_frames": [30, 33],
        "span_seconds": [3.0, 3.3],
        "frames": [30, 31, 32],
        "boxes": [[10, 20, 40, 60], [11, 20, 41, 60], [12, 20, 42, 60]],
    }
    assert out.info == {"hcstvg1_test": {"file_name": "test.jsonl", "formatting": "spacevllm"}}
    assert out.summary["rows"] == {"read": 1, "kept": 1, "repaired": 0, "dropped": 0}


def test_v2_reads_english_and_the_size_as_height_and_width(tmp_path):
    raw = write_json(tmp_path / "valv2.json", {"1_a.mp4": v2()})
    out = converted("hcstvg-v2", tmp_path / "val.jsonl", annotations=raw, split="val")
    (row,) = out.rows
    assert row["id"] == "hcstvg2/val/1_a.mp4/0" and list(out.info) == ["hcstvg2_val"]
    assert row["media"] == {"width": 640, "height": 360, "fps": 30.0, "num_frames": 600}
    assert row["target"]["span_frames"] == [0, 2]
    assert row["query"] == "the woman sits down"
    assert "女" not in str(row)


def test_v2_boxes_outside_the_frame(tmp_path):
    items = {
        "1_cut.mp4": v2(bbox=[[-10, 300, 50, 100], [600, 0, 100, 50], [10, 10, 5, 5]]),
        "2_gap.mp4": v2(bbox=[[10, 10, 5, 5], [700, 10, 5, 5], [10, 10, 0, 5], [30, 10, 5, 5]]),
        "3_gone.mp4": v2(bbox=[[700, 10, 5, 5], [10, 400, 5, 5]]),
        "4_end.mp4": v2(st_frame=599, bbox=[[1, 1, 5, 5]] * 5),  # frames 598, 599 are the last two
        "5_withheld.mp4": v2(bbox=[]),
        "6_after.mp4": v2(st_frame=601, bbox=[[1, 1, 5, 5]]),
        "7_silent.mp4": v2(English=" "),
        "8_no_boxes_key.mp4": {key: value for key, value in v2().items() if key != "bbox"},
        "9_rounding.mp4": v2(bbox=[[600, 320, 40.4, 40.4]]),  # under half a pixel over: as annotated
    }
    raw = write_json(tmp_path / "valv2.json", items)
    out = converted("hcstvg-v2", tmp_path / "val.jsonl", annotations=raw, split="val")
    assert out.row("1_cut")["target"]["boxes"] == [[0, 300, 40, 360], [600, 0, 640, 50], [10, 10, 15, 15]]
    # As annotated, for scorers that do not cut them.
    assert out.row("1_cut")["target"]["source_frames"] == [0, 1]
    assert out.row("1_cut")["target"]["source_boxes"] == [[-10, 300, 40, 400], [600, 0, 700, 50]]
    gap = out.row("2_gap")["target"]
    assert gap["source_boxes"] == [[700, 10, 705, 15], [10, 10, 10, 15]]
    assert gap["span_frames"] == [0, 4] and gap["frames"] == [0, 3]
    end = out.row("4_end")["target"]
    assert end["span_frames"] == [598, 600] and end["frames"] == [598, 599]
    assert out.row("9_rounding")["target"]["boxes"] == [[600, 320, 640.4, 360.4]]
    assert "source_boxes" not in out.row("9_rounding")["target"]
    assert out.summary["rows"] == {"read": 9, "kept": 4, "repaired": 3, "dropped": 5}
    assert out.summary["repaired"] == {"box_cut_to_frame": 1, "empty_box_left_out": 1, "span_cut_to_video": 1}
    assert out.summary["dropped"] == {
        "boxes_outside_frame": 1,
        "no_boxes": 1,
        "empty_span": 1,
        "no_sentence": 1,
        "malformed": 1,
    }


@pytest.mark.parametrize("source", ["hcstvg-v1", "hcstvg-v2"])
def test_the_other_versions_file_is_refused_in_one_line(source, tmp_path, capsys):
    item = v2() if source == "hcstvg-v1" else v1()
    raw = write_json(tmp_path / "train.json", {"a.mp4": item})
    assert run_convert(source, tmp_path / "train.jsonl", annotations=raw, split="train") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "no row could be kept (malformed 1; first case: a.mp4: " in error
    assert not (tmp_path / "train.jsonl").exists()
