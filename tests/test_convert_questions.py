"""The four multiple-choice sets: questions and options as published, answers as letters."""

import pyarrow
import pyarrow.parquet
from conftest import write_image, write_video
from converting import converted, run_convert, write_json

from spacevllm_plugin.data.schema import AnnotationRow
from spacevllm_plugin.evaluation.choice import Question


def question(row):
    """The options and the right letter as the scorer reads them."""
    return Question.of(AnnotationRow.model_validate(row))


def test_egoschema_has_rows_for_public_answers_only(tmp_path):
    options = {f"option {i}": f"C does\nthing {i}." for i in range(5)}
    items = [{"q_uid": uid, "google_drive_id": "g", "question": "What does C do?", **options} for uid in ("u1", "u2")]
    out = converted(
        "egoschema",
        tmp_path / "subset.jsonl",
        annotations=write_json(tmp_path / "questions.json", items),
        answers=write_json(tmp_path / "subset_answers.json", {"u1": 3}),
    )
    (row,) = out.rows
    assert (row["id"], row["task"], row["videos"]) == ("egoschema/u1", "qa", ["egoschema/u1.mp4"])
    assert row["messages"] == [
        {
            "role": "user",
            "content": "<video>What does C do?\nA. C does thing 0.\nB. C does thing 1.\nC. C does thing 2.\n"
            "D. C does thing 3.\nE. C does thing 4.\nAnswer with the option's letter from the given choices directly.",
        },
        {"role": "assistant", "content": "D"},
    ]
    assert question(row).truth == "D" and set(question(row).options) == set("ABCDE")
    assert out.summary["dropped"] == {"answer_withheld": 1}
    assert list(out.info) == ["egoschema_subset"]


def test_videomme_keeps_what_scores_are_broken_down_by(tmp_path):
    item = {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "url": "https://example.org",
        "videoID": "fFjv93ACGo8",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "How many apples?",
        "options": ["A. Two.", "B. Three.", "C. A. Smith has them.", "D. None."],
        "answer": "C",
    }
    raw = tmp_path / "test.parquet"
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([item, {**item, "question_id": "001-2", "answer": "E"}]), raw
    )
    out = converted("videomme", tmp_path / "test.jsonl", annotations=raw)
    (row,) = out.rows
    assert (row["id"], row["videos"]) == ("videomme/001-1", ["videomme/fFjv93ACGo8.mp4"])
    assert "\nC. A. Smith has them.\n" in row["messages"][0]["content"]
    assert row["messages"][1]["content"] == "C"
    assert row["tags"] == {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "task_type": "Counting Problem",
    }
    assert out.summary["dropped"] == {"answer_not_among_options": 1}


def test_videomme_refuses_another_file_in_one_line(tmp_path, capsys):
    raw = write_json(tmp_path / "test.parquet", [])
    assert run_convert("videomme", tmp_path / "test.jsonl", annotations=raw) == 1
    assert "not a Parquet file" in capsys.readouterr().err.splitlines()[-1]


def test_tempcompass_groups_by_dimension(tmp_path):
    choice = {"question": "What is he doing?\nA. running\nB. swimming", "answer": "B. swimming"}
    raw = write_json(
        tmp_path / "multi-choice.json", {"123": {"action": [choice], "speed": [{**choice, "answer": "?"}]}}
    )
    out = converted("tempcompass", tmp_path / "mc.jsonl", annotations=raw, kind="multi-choice")
    (row,) = out.rows
    assert (row["id"], row["group"]) == ("tempcompass/multi-choice/123/action/0", "action")
    assert row["query"] == "What is he doing?" and row["videos"] == ["tempcompass/123.mp4"]
    assert question(row) == Question({"A": "running", "B": "swimming"}, "B")
    assert out.summary["dropped"] == {"answer_not_among_options": 1}

    raw = write_json(tmp_path / "yes_no.json", {"123": {"order": [{"question": "Does he stop?", "answer": "no"}]}})
    (row,) = converted("tempcompass", tmp_path / "yn.jsonl", annotations=raw, kind="yes_no").rows
    assert question(row).truth == "no" and row["messages"][0]["content"].endswith("answer yes or no.")


def test_mvbench_takes_the_part_that_is_asked_about(tmp_path):
    media = tmp_path / "media"
    for path in ("star/Charades_v1_480/v.mp4", "perception/videos/v.mp4", "sta/sta_video_segment/v_1.0_3.5.mp4"):
        (media / "mvbench" / path).parent.mkdir(parents=True)
        write_video(media / "mvbench" / path, 20, fps=4)  # 5 s

    frames = media / "mvbench/tvqa/frames_fps3_hq/castle"
    frames.mkdir(parents=True)
    for i in range(12):  # 4 s at 3 frames a second
        write_image(frames / f"{i:05}.jpg", i)

    later = media / "mvbench/data0613/star/Charades_v1_480"
    later.mkdir(parents=True)
    write_video(later / "new.mp4", 20, fps=4)

    item = {"video": "v.mp4", "question": "What next?", "candidates": ["He sits.", "He runs."], "answer": "He runs."}
    part = {**item, "start": 1.0, "end": 3.5}
    write_json(tmp_path / "raw/action_sequence.json", [part])
    write_json(tmp_path / "raw/action_prediction.json", [{**part, "video": "new.mp4"}])
    write_json(tmp_path / "raw/action_localization.json", [{**part, "video": "v_1.0_3.5.mp4"}])
    write_json(tmp_path / "raw/state_change.json", [item, {**item, "answer": "He flies."}])
    write_json(tmp_path / "raw/episodic_reasoning.json", [{**item, "video": "castle", "start": 0.0, "end": 2.0}])
    out = converted("mvbench", tmp_path / "test.jsonl", annotations=tmp_path / "raw", media_dir=media)

    # Whole videos: frames 4 to 13 of 20, at 4 a second.
    row = out.row("action_sequence")
    assert row["videos"] == ["mvbench/star/Charades_v1_480/v.mp4"] and row["group"] == "action_sequence"
    assert (row["media"]["fps"], row["media"]["num_frames"], row["media"]["clip"]) == (4.0, 20, [4, 14])
    # The same of a video that the authors packed later.
    row = out.row("action_prediction")
    assert row["videos"] == ["mvbench/data0613/star/Charades_v1_480/new.mp4"] and row["media"]["clip"] == [4, 14]
    # Segments as the authors cut them: all of the file.
    row = out.row("action_localization")
    assert row["videos"] == ["mvbench/sta/sta_video_segment/v_1.0_3.5.mp4"] and "media" not in row
    row = out.row("state_change")
    assert question(row) == Question({"A": "He sits.", "B": "He runs."}, "B") and "media" not in row
    # Frame images: 3 a second, whatever the reader's default.
    row = out.row("episodic_reasoning")
    assert row["videos"] == ["mvbench/tvqa/frames_fps3_hq/castle"]
    assert (row["media"]["fps"], row["media"]["clip"]) == (3.0, [0, 6])
    assert out.summary["dropped"] == {"answer_not_among_options": 1}
