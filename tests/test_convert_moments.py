"""The temporal sets' exact shapes with their traps; with and without the videos."""

import json

import pytest
from conftest import write_video
from converting import converted, run_convert, write_json

from spacevllm_plugin.converters.didemo import consensus
from spacevllm_plugin.data.schema import AnnotationRow, PredictionRow, RowError
from spacevllm_plugin.evaluation import evaluate


def seconds(row):
    return row["target"]["span_seconds"]


CHARADES = """\
3MSZA 24.3 30.4##person turn a light on.
3MSZA 24.3 33.0##person turn a light on.
AO8RW 31.0 36.0##a person is putting a book on a shelf.
AO8RW 0.0 6.9##a person "says" 5##6.

no line
3MSZA 24.3 30.4##person turn a light on.
ZZZZZ 1.0 2.0##not in the csv.
"""


def charades(folder):
    (folder / "charades_sta_test.txt").write_text(CHARADES)
    (folder / "Charades_v1_test.csv").write_text(
        'id,subject,script,length\n3MSZA,A,"turns a light, on",30.96\nAO8RW,B,x,31.0\n'
    )
    return {"annotations": folder / "charades_sta_test.txt", "split": "test"}


def test_charades_ends_are_cut_at_the_length(tmp_path):
    options = charades(tmp_path)
    out = converted("charades-sta", tmp_path / "test.jsonl", **options, lengths=tmp_path / "Charades_v1_test.csv")
    plain, cut, quoted, repeated = out.rows
    assert [seconds(row) for row in out.rows] == [[24.3, 30.4], [24.3, 30.96], [0.0, 6.9], [24.3, 30.4]]
    assert plain["id"].startswith("charades_sta/test/3MSZA/24.3-30.4/")
    assert repeated["id"] == plain["id"] + "#2"
    assert plain["task"] == "vtg" and plain["videos"] == ["charades/3MSZA.mp4"]
    assert plain["query"] == "person turn a light on" and quoted["query"] == 'a person "says" 5##6'
    assert "media" not in plain and set(plain["target"]) == {"span_seconds"}
    assert cut["messages"][1]["content"].count("31.0") == 1  # 30.96 as the answer writes it
    # 31.0 to 36.0 of a video of 31.0 s: nothing is left.
    assert out.summary["dropped"] == {"empty_span": 1, "malformed": 1, "no_length": 1}
    assert out.summary["repaired"] == {"span_cut_to_video": 1}
    assert out.summary["rows"] == {"read": 7, "kept": 4, "repaired": 1, "dropped": 3}


def test_charades_without_lengths_is_as_annotated(tmp_path, capsys):
    out = converted("charades-sta", tmp_path / "test.jsonl", **charades(tmp_path))
    assert [seconds(row) for row in out.rows][:3] == [[24.3, 30.4], [24.3, 33.0], [31.0, 36.0]]
    assert "without --media-dir the rows hold seconds only" in capsys.readouterr().out


def test_charades_with_the_videos(tmp_path):
    """A file of 62 frames at 2 a second: 31 s; another suffix than mp4 is found, a missing or broken file is named."""
    (tmp_path / "media/charades").mkdir(parents=True)
    write_video(tmp_path / "media/charades/3MSZA.mkv", count=62, fps=2)
    (tmp_path / "media/charades/AO8RW.mp4").write_bytes(b"no video")
    out = converted("charades-sta", tmp_path / "test.jsonl", **charades(tmp_path), media_dir=tmp_path / "media")
    first, cut, _ = out.rows
    assert first["videos"] == ["charades/3MSZA.mkv"]
    assert first["media"] == {"width": 48, "height": 48, "fps": 2.0, "num_frames": 62}
    # 24.3 s * 2 = 48.6 -> frame 49; 30.4 s * 2 = 60.8 -> frame 61.
    assert first["target"] == {"span_seconds": [24.3, 30.4], "span_frames": [49, 61]}
    assert cut["target"] == {"span_seconds": [24.3, 31.0], "span_frames": [49, 62]}
    assert out.summary["dropped"] == {"video_unreadable": 2, "malformed": 1, "no_video": 1}


def test_a_csv_without_the_columns_is_one_line(tmp_path, capsys):
    options = charades(tmp_path)
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    assert run_convert("charades-sta", tmp_path / "o.jsonl", **options, lengths=tmp_path / "wrong.csv") == 1
    assert "needs columns `id` and `length`" in capsys.readouterr().err.splitlines()[-1]


def test_tacos_frames_become_seconds(tmp_path):
    raw = {
        "s30-d52.avi": {
            "timestamps": [[147, 294], [294, 3000], [2940, 3000]],
            "sentences": ["He takes out a knife.", "He cuts the bread.", "He leaves."],
            "fps": 29.4,
            "num_frames": 2940,
        },
        "s1-d1.avi": {"timestamps": [[1, 2]], "sentences": [], "fps": 29.4, "num_frames": 10},
    }
    annotations = write_json(tmp_path / "test.json", raw)
    out = converted("tacos", tmp_path / "test.jsonl", annotations=annotations, split="test")
    first, second = out.rows
    assert first["id"] == "tacos/test/s30-d52.avi/147-294/0"
    assert first["videos"] == ["tacos/s30-d52.avi"]
    assert seconds(first) == pytest.approx([5.0, 10.0])
    assert seconds(second) == pytest.approx([10.0, 100.0])  # cut at 2940 / 29.4
    assert out.summary["dropped"] == {"empty_span": 1, "malformed": 1}


def test_activitynet(tmp_path):
    raw = {
        "v_QOlSCBRmfWY": {
            "duration": 82.73,
            "timestamps": [[0.83, 19.86], [17.37, 90.0], [60.81, 60.81], [50.0, 41.0]],
            "sentences": ["A young woman is seen standing.", " The girl dances. ", "Nothing.", "Reversed."],
        }
    }
    annotations = write_json(tmp_path / "val_1.json", raw)
    out = converted("activitynet", tmp_path / "val.jsonl", annotations=annotations, split="val")
    assert [row["id"] for row in out.rows] == [
        "activitynet_captions/val/v_QOlSCBRmfWY/0.83-19.86/0",
        "activitynet_captions/val/v_QOlSCBRmfWY/17.37-90/1",
    ]
    assert [seconds(row) for row in out.rows] == [[0.83, 19.86], [17.37, 82.73]]
    assert out.rows[0]["videos"] == ["activitynet/v_QOlSCBRmfWY.mp4"]
    assert out.rows[1]["query"] == "The girl dances"
    assert out.summary["dropped"] == {"empty_span": 2}


def didemo(times, **changes):
    item = {
        "annotation_id": 61364,
        "description": "the girl bends down.",
        "video": "67609542@N07_9002112573_cb8b3d4d11.mov",
        "times": times,
        "num_segments": 6,
        "download_link": "-",
        "dl_link": "-",
    }
    return {**item, **changes}


def test_didemo_chunks_include_both_ends(tmp_path):
    items = [
        didemo([[1, 4], [1, 4], [0, 4], [1, 4]]),
        didemo([[5, 5], [5, 5], [4, 5], [5, 5]], annotation_id=2),
        didemo([[4, 5], [4, 5], [4, 5], [4, 5]], annotation_id=3, num_segments=5),
        didemo([[5, 5], [5, 5], [5, 5], [5, 5]], annotation_id=4, num_segments=5),
        didemo([], annotation_id=5),
    ]
    annotations = write_json(tmp_path / "test_data.json", items)
    out = converted("didemo", tmp_path / "test.jsonl", annotations=annotations, split="test")
    assert [seconds(row) for row in out.rows] == [[5, 25], [25, 30], [20, 25]]
    assert out.rows[0]["id"] == "didemo/test/67609542@N07_9002112573_cb8b3d4d11.mov/61364"
    assert out.summary["repaired"] == {"span_cut_to_video": 1}
    assert out.summary["dropped"] == {"empty_span": 1, "malformed": 1}


def test_didemo_end_is_cut_at_the_files_length(tmp_path):
    """A file of 27 s: its last chunk has 2 seconds."""
    (tmp_path / "media/didemo").mkdir(parents=True)
    write_video(tmp_path / "media/didemo/67609542@N07_9002112573_cb8b3d4d11.mp4", count=54, fps=2)
    annotations = write_json(tmp_path / "test_data.json", [didemo([[4, 5]] * 4)])
    out = converted(
        "didemo", tmp_path / "test.jsonl", annotations=annotations, split="test", media_dir=tmp_path / "media"
    )
    (row,) = out.rows
    assert row["target"] == {"span_seconds": [20.0, 27.0], "span_frames": [40, 54]}
    assert row["videos"] == ["didemo/67609542@N07_9002112573_cb8b3d4d11.mp4"]


@pytest.mark.parametrize(
    "times, chosen",
    [
        ([(0, 1), (2, 3), (2, 3), (0, 0)], (2, 3)),  # two of four
        # All differ. Sums of IoU with (0,1) (0,0) (1,1) (5,5): 1 + 1/2 + 1/2 = 2 against 1.5, 1.5 and 1.
        ([(0, 0), (1, 1), (0, 1), (5, 5)], (0, 1)),
        ([(3, 3), (1, 1), (3, 3), (1, 1)], (1, 1)),  # all the same: the earliest
    ],
)
def test_didemo_consensus(times, chosen):
    assert consensus(times) == chosen


def highlight(qid, windows, **changes):
    item = {
        "qid": qid,
        "query": "A girl and her mother cooked while talking.",
        "duration": 150,
        "vid": "NUsG9BgSes0_210.0_360.0",
        "relevant_clip_ids": [0, 1],
        "saliency_scores": [[4, 4, 4], [2, 3, 1]],
        "relevant_windows": windows,
    }
    return json.dumps({**item, **changes}) + "\n"


def test_qvhighlights_keeps_all_windows(tmp_path):
    raw = tmp_path / "highlight_val_release.jsonl"
    raw.write_text(
        highlight(2579, [[0, 4], [82, 150]])
        + highlight(2580, [[10, 20], [30, 40]])
        + highlight(2581, [[140, 152]])
        + highlight(2582, [])
        + "{broken\n"
    )
    out = converted("qvhighlights", tmp_path / "val.jsonl", annotations=raw, split="val")
    longest, first, cut = out.rows
    assert longest["id"] == "qvhighlights/val/NUsG9BgSes0_210.0_360.0/2579"
    assert longest["videos"] == ["qvhighlights/NUsG9BgSes0_210.0_360.0.mp4"]
    assert longest["target"] == {"span_seconds": [82, 150], "windows_seconds": [[0, 4], [82, 150]]}
    assert first["target"] == {"span_seconds": [10, 20], "windows_seconds": [[10, 20], [30, 40]]}
    assert cut["target"] == {"span_seconds": [140, 150], "windows_seconds": [[140, 150]]}
    assert out.summary["dropped"] == {"malformed": 2}


def test_rows_in_seconds_are_scored(tmp_path):
    """`native` needs no frame rate for spans in seconds: 5..10 against 5..15 s is an IoU of 1/2."""
    annotations = write_json(
        tmp_path / "t.json", {"a.avi": {"timestamps": [[50, 150]], "sentences": ["x"], "fps": 10, "num_frames": 200}}
    )
    out = converted("tacos", tmp_path / "t.jsonl", annotations=annotations, split="val")
    row = AnnotationRow.model_validate(out.rows[0])
    result = evaluate("vtg", [row], [PredictionRow(id=row.id, span_seconds=(5, 10))])
    assert result.report()["groups"]["all"]["mIoU"] == pytest.approx(0.5)
    with pytest.raises(RowError, match="span_frames alone"):
        evaluate("vtg", [row], [PredictionRow(id=row.id, span_frames=(5, 10))])
