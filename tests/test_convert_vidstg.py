"""VidSTG's exact shape, joined with VidOR's, with the traps: ends, gaps, boxes outside, videos without boxes."""

import json
import tracemalloc

import pytest
from converting import converted, run_convert, write_json

from spacevllm_plugin.converters import SOURCES, convert


def entry(vid="3598080384", clip=(10, 29), span=(12, 20), captions=None, questions=(), **changes):
    """One item of VidSTG's list: `used_segment` ends with its end_fid, `temporal_gt` before it."""
    relation = {"subject_tid": 0, "object_tid": 1, "predicate": "watch", "begin_fid": span[0], "end_fid": span[1]}
    return {
        "vid": vid,
        "frame_count": 30,
        "fps": 10.0,
        "width": 640,
        "height": 360,
        "subject/objects": [{"tid": 0, "category": "adult"}, {"tid": 1, "category": "dog"}],
        "used_segment": {"begin_fid": clip[0], "end_fid": clip[1]},
        "used_relation": relation,
        "temporal_gt": {"begin_fid": span[0], "end_fid": span[1]},
        "captions": [{"description": "an adult watches a dog .", "type": "person", "target_id": 0}]
        if captions is None
        else captions,
        "questions": list(questions),
        **changes,
    }


def box(tid, x, generated=0):
    corners = {"xmin": x, "ymin": 20, "xmax": x + 100, "ymax": 120}
    return {"tid": tid, "bbox": corners, "generated": generated, "tracker": "none" if not generated else "linear"}


def vidor(vid="3598080384", trajectories=None):
    """One VidOR file: object 0 at x = 2 * frame in every frame, half of them generated; object 1 from frame 15 on."""
    if trajectories is None:
        trajectories = [[box(0, 2 * f, generated=f % 2)] + ([box(1, 300)] if f >= 15 else []) for f in range(30)]

    return {
        "version": "VERSION 1.0",
        "video_id": vid,
        "video_hash": "0",
        "video_path": f"1017/{vid}.mp4",
        "frame_count": 30,
        "fps": 10.0,
        "width": 640,
        "height": 360,
        "subject/objects": [{"tid": 0, "category": "adult"}, {"tid": 1, "category": "dog"}],
        "trajectories": trajectories,
        "relation_instances": [],
    }


def files(folder, entries, **videos):
    for vid, data in (videos or {"3598080384": vidor()}).items():
        write_json(folder / f"vidor/validation/1017/{vid}.json", data)

    return {
        "annotations": write_json(folder / "test_annotations.json", entries),
        "boxes": folder / "vidor/validation",
        "split": "test",
    }


def test_a_caption_and_a_question(tmp_path):
    question = {"description": "what does the adult   watch?", "type": "object", "target_id": 1}
    out = converted("vidstg", tmp_path / "rows.jsonl", **files(tmp_path, [entry(questions=[question])]))
    declarative, interrogative = out.rows
    assert declarative["id"] == "vidstg/test/3598080384/10-29/12-20/0-watch-1/declarative/0/0"
    assert declarative["group"] == "declarative" and declarative["task"] == "stvg"
    assert declarative["query"] == "an adult watches a dog"
    assert declarative["videos"] == ["vidor/1017/3598080384.mp4"]
    # used_segment 10..29 with its end: the clip is 20 frames.
    assert declarative["media"] == {"width": 640, "height": 360, "fps": 10.0, "num_frames": 30, "clip": [10, 30]}
    # temporal_gt 12..20 without its end: 8 frames, 1.2 s to 2.0 s of the file. Generated boxes count.
    assert declarative["target"] == {
        "span_frames": [12, 20],
        "span_seconds": [1.2, 2.0],
        "frames": [12, 13, 14, 15, 16, 17, 18, 19],
        "boxes": [[2.0 * f, 20.0, 2.0 * f + 100, 120.0] for f in range(12, 20)],
        # Outside the span, for scorers that take its end for its last frame.
        "source_frames": [20],
        "source_boxes": [[40.0, 20.0, 140.0, 120.0]],
    }
    user, assistant = declarative["messages"]
    assert user["content"].startswith("<video>") and "an adult watches a dog" in user["content"]
    assert "1.2" in assistant["content"] and "2.0" in assistant["content"]

    # The dog has boxes from frame 15 on only: fewer boxes, the same span.
    assert interrogative["id"] == "vidstg/test/3598080384/10-29/12-20/0-watch-1/interrogative/1/0"
    assert interrogative["group"] == "interrogative"
    assert interrogative["query"] == "what does the adult watch?"
    assert interrogative["target"]["span_frames"] == [12, 20]
    assert interrogative["target"]["frames"] == [15, 16, 17, 18, 19]
    assert out.summary["repaired"] == {"sparse_boxes": 1}


def test_a_span_to_the_end_of_the_clip_keeps_its_last_frame(tmp_path):
    """temporal_gt.end_fid = used_segment.end_fid + 1 = frame_count, as in 768 test entries."""
    out = converted("vidstg", tmp_path / "rows.jsonl", **files(tmp_path, [entry(clip=(0, 29), span=(28, 30))]))
    (row,) = out.rows
    assert row["media"]["clip"] == [0, 30]
    assert row["target"]["span_frames"] == [28, 30] and row["target"]["frames"] == [28, 29]
    assert "source_frames" not in row["target"]
    assert out.summary["rows"] == {"read": 1, "kept": 1, "repaired": 0, "dropped": 0}


def test_a_span_behind_a_clip_that_the_video_goes_on_after_is_counted(tmp_path):
    """STCAT's loader drops it: used_segment.end_fid + 1 = temporal_gt.end_fid < frame_count."""
    entries = [entry(clip=(0, 19), span=(8, 20)), entry(clip=(0, 19), span=(8, 19)), entry(span=(8, 30), clip=(0, 29))]
    out = converted("vidstg", tmp_path / "rows.jsonl", **files(tmp_path, entries))
    assert [row["target"]["span_frames"] for row in out.rows] == [[8, 20], [8, 19], [8, 30]]
    assert out.summary["repaired"] == {"span_end_behind_clip": 1}
    assert out.summary["examples"]["span_end_behind_clip"] == out.rows[0]["id"]
    # Frame 20 is not the clip's.
    assert [row["target"].get("source_frames") for row in out.rows] == [None, [19], None]


def test_what_is_mended_and_what_is_dropped(tmp_path):
    outside = [[box(0, -50)], [box(0, 600)], [box(0, -200)], [box(0, 50)]] + [[]] * 26
    no_sentence = [{"description": " . ", "type": "person", "target_id": 0}]
    broken = entry(vid="4")
    del broken["temporal_gt"]
    entries = [
        entry(vid="1", clip=(0, 29), span=(0, 4)),  # boxes that leave the frame; one wholly
        entry(vid="2"),  # no VidOR file
        entry(vid="1", clip=(5, 29), span=(6, 9)),  # no box in the span
        entry(vid="1", clip=(5, 29), span=(1, 5)),  # ends where the clip starts
        entry(vid="1", clip=(0, 30), span=(2, 4)),  # a clip beyond the video
        entry(vid="1", clip=(0, 1), span=(0, 4)),  # a span beyond the clip
        entry(vid="1", captions=no_sentence),
        broken,
        entry(vid="3"),  # a VidOR file that is no JSON
    ]
    options = files(tmp_path, entries, **{"1": vidor("1", outside)})
    (tmp_path / "vidor/validation/1017/3.json").write_text("{")
    out = converted("vidstg", tmp_path / "rows.jsonl", **options)

    cut, late, long = out.rows
    assert cut["target"]["frames"] == [0, 1, 3]
    assert cut["target"]["boxes"] == [[0, 20, 50, 120], [600, 20, 640, 120], [50, 20, 150, 120]]
    # As annotated, for scorers that do not cut them; VidOR has no box at the span's end, 4.
    assert cut["target"]["source_frames"] == [0, 1, 2]
    assert cut["target"]["source_boxes"] == [[-50, 20, 50, 120], [600, 20, 700, 120], [-200, 20, -100, 120]]
    assert late["media"]["clip"] == [0, 30] and late["target"]["frames"] == [3]
    assert long["target"]["span_frames"] == [0, 2]
    assert out.summary["rows"] == {"read": 9, "kept": 3, "repaired": 3, "dropped": 6}
    # One box wholly outside: rows 1 and 2 lack it; the third row's two boxes are cut only.
    assert out.summary["repaired"] == {
        "box_cut_to_frame": 2,
        "empty_box_left_out": 2,
        "sparse_boxes": 2,
        "clip_cut_to_video": 1,
        "span_cut_to_clip": 1,
        "span_end_behind_clip": 1,
    }
    assert out.summary["dropped"] == {
        "no_vidor_file": 1,
        "no_boxes": 1,
        "empty_span": 1,
        "no_sentence": 1,
        "malformed": 1,
        "vidor_file_unreadable": 1,
    }
    assert out.summary["examples"]["malformed"] == "item 7: temporal_gt: Field required"


def test_ids_follow_the_content_not_the_order(tmp_path):
    entries = [entry(span=(12, 20)), entry(span=(12, 21)), entry(span=(12, 22)), entry(span=(12, 21))]
    first = converted("vidstg", tmp_path / "a/rows.jsonl", **files(tmp_path / "a", entries))
    second = converted("vidstg", tmp_path / "b/rows.jsonl", **files(tmp_path / "b", entries[::-1]))
    assert sorted(first.rows, key=lambda row: row["id"]) == sorted(second.rows, key=lambda row: row["id"])
    # An item repeated to the letter is kept, as official counts include it, under an id of its own.
    assert len(set(first.ids)) == 4
    assert sum(row_id.endswith("#2") for row_id in first.ids) == 1


def test_a_truncated_file_leaves_the_last_output_alone(tmp_path, capsys):
    options = files(tmp_path, [entry(), entry(span=(13, 19))])
    out = tmp_path / "rows/rows.jsonl"
    converted("vidstg", out, **options)
    before = out.read_bytes()
    text = options["annotations"].read_text()
    options["annotations"].write_text(text[:-40])
    assert run_convert("vidstg", out, **options) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spacevllm-cli")]
    assert "test_annotations.json: not valid JSON" in line
    assert out.read_bytes() == before
    names = {path.name for path in out.parent.iterdir()} - {".dataset_info.json.lock"}
    assert names == {"rows.jsonl", "rows.jsonl.summary.json", "dataset_info.json"}


def test_wrong_or_missing_files_are_one_line(tmp_path, capsys):
    good = files(tmp_path, [entry()])
    other = write_json(tmp_path / "other.json", {"not": "a list"})
    for options, says in (
        ({**good, "annotations": tmp_path / "nowhere.json"}, "nowhere.json: No such file"),
        ({**good, "boxes": tmp_path / "nowhere"}, "nowhere does not exist"),
        ({**good, "annotations": other}, "no item found"),
    ):
        assert run_convert("vidstg", tmp_path / "rows.jsonl", **options) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spacevllm-cli")]
        assert says in line
        assert not (tmp_path / "rows.jsonl").exists()

    with pytest.raises(SystemExit) as error:
        run_convert("vidstg", tmp_path / "rows.jsonl", **{**good, "split": "minival"})

    assert error.value.code == 2


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Four times the sentences, the same peak: entries, rows and ids are not kept."""

    def peak(count):
        folder = tmp_path / str(count)
        questions = [{"description": "who watches?", "type": "person", "target_id": 0}]
        entries = [entry(questions=questions, frame_count=30 + i) for i in range(count // 2)]
        options = files(folder, [{**e, "vid": "1", "used_segment": {"begin_fid": 0, "end_fid": 29 + i}}
                                 for i, e in enumerate(entries)], **{"1": vidor("1")})  # fmt: skip
        source = SOURCES["vidstg"](**options)
        del entries
        tracemalloc.start()
        report = convert(source, folder / "rows.jsonl")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert report.kept == count
        with open(folder / "rows.jsonl") as file:
            assert len({json.loads(line)["id"] for line in file}) == count

        return most

    peak(100)  # imports and caches
    small, large = peak(2000), peak(8000)
    assert large < 1.1 * small + 50_000
