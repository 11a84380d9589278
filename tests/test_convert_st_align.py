"""ST-Align's shape as LLaVA-ST reads it; the frame rate comes from the video."""

from conftest import write_video
from converting import converted, run_convert, write_json


def item(human="<video>\nWhen and where does the man run?", gpt="From <s> to <e>: <bboxes>.", **meta):
    tube = {str(frame): [10 + frame, 10, 20, 10] for frame in range(4, 9)}
    base = {"width": 48, "height": 48, "split": [2, 9], "time_token": {"<s>": 4, "<e>": 8}}
    return {
        "video_path": "a/b.mp4",
        "meta": {**base, "spatial_token": {"<bboxes>": tube}, **meta},
        "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}],
    }


def test_tubes_and_spans(tmp_path):
    (tmp_path / "media/st_align/a").mkdir(parents=True)
    write_video(tmp_path / "media/st_align/a/b.mp4", count=12, fps=4)
    missing = item()
    missing["video_path"] = "nowhere.mp4"
    items = [
        item(),
        item(gpt="It happens from <s> to <e>.", spatial_token={}),
        item(human="<video>What happens from <s> to <e>?", gpt="A man runs."),
        item(human="<video>Where is the man from <s> to <e>?", gpt="<bboxes>"),
        item(spatial_token={"<bboxes>": [1, 2, 3, 4]}),
        item(time_token={"<s>": 4}),
        missing,
        item(time_token={"<s>": 7, "<e>": 20}),
        item(split=[2, 3]),
    ]
    annotations = write_json(tmp_path / "bench.json", items)
    out = converted("st-align", tmp_path / "t.jsonl", annotations=annotations, media_dir=tmp_path / "media")
    tube, span, cut = out.rows
    assert (tube["task"], span["task"]) == ("stvg", "vtg")
    # `split` 2..9 and the times 4..8 include their ends; 4 frames a second.
    assert tube["media"] == {"width": 48, "height": 48, "fps": 4.0, "num_frames": 12, "clip": [2, 10]}
    assert tube["target"] == {
        "span_frames": [4, 9],
        "span_seconds": [1.0, 2.25],
        "frames": [4, 5, 6, 7, 8],
        "boxes": [[14, 10, 34, 20], [15, 10, 35, 20], [16, 10, 36, 20], [17, 10, 37, 20], [18, 10, 38, 20]],
    }
    assert tube["messages"][0]["content"] == "<video>When and where does the man run?"
    assert "1.0" in tube["messages"][1]["content"] and "<" not in tube["messages"][1]["content"]
    assert span["target"] == {"span_frames": [4, 9], "span_seconds": [1.0, 2.25]}
    assert cut["target"]["span_frames"] == [7, 10] and cut["target"]["frames"] == [7, 8]
    assert out.summary["repaired"] == {"span_cut_to_clip": 1}
    assert out.summary["dropped"] == {"other_task": 2, "malformed": 2, "no_video": 1, "empty_span": 1}


def test_boxes_that_leave_the_frame_stay_beside_the_tube(tmp_path):
    (tmp_path / "media/st_align/a").mkdir(parents=True)
    write_video(tmp_path / "media/st_align/a/b.mp4", count=12, fps=4)
    tube = {"3": [-9, 0, 9, 9], "4": [40, 10, 20, 10], "6": [60, 10, 20, 10], "8": [10, 10, 20, 10]}
    annotations = write_json(tmp_path / "bench.json", [item(spatial_token={"<bboxes>": tube})])
    out = converted("st-align", tmp_path / "t.jsonl", annotations=annotations, media_dir=tmp_path / "media")
    target = out.rows[0]["target"]
    assert (target["frames"], target["boxes"]) == ([4, 8], [[40, 10, 48, 20], [10, 10, 30, 20]])
    assert (target["source_frames"], target["source_boxes"]) == ([4, 6], [[40, 10, 60, 20], [60, 10, 80, 20]])


def test_without_the_videos_it_says_what_is_missing(tmp_path, capsys):
    annotations = write_json(tmp_path / "bench.json", [item()])
    assert run_convert("st-align", tmp_path / "t.jsonl", annotations=annotations, media_dir=tmp_path) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("st_align does not exist")
