"""What all sources share: phrasing, the summary, dataset_info.json, files that are whole or not there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from converting import converted, run_convert, write_json

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.converters import SOURCES, convert
from spacevllm_plugin.converters.boxes import fit_box
from spacevllm_plugin.converters.text import tidy
from spacevllm_plugin.data.prompts import ANSWERS, INSTRUCTIONS, answer, instruction
from spacevllm_plugin.data.schema import AnnotationRow, RowError, parse_row
from spacevllm_plugin.data.span_parser import read_span


def tacos(folder, videos=1, sentences=60):
    raw = {
        f"s{n}-d1.avi": {
            "timestamps": [[i, i + 20] for i in range(sentences)],
            "sentences": [f"sentence {i}" for i in range(sentences)],
            "fps": 10,
            "num_frames": 1000,
        }
        for n in range(videos)
    }
    return {"annotations": write_json(folder / "tacos.json", raw), "split": "train"}


@pytest.mark.parametrize("task", ["stvg", "vtg"])
def test_every_answer_phrasing_is_read_back(task):
    for phrasing in ANSWERS[task]:
        for span in ((0.0, 0.1), (1.5, 3.0), (12.0, 118.5)):
            assert read_span(phrasing.format(start=span[0], end=span[1])) == span


def test_without_a_key_the_phrasing_is_the_first():
    assert instruction("stvg", "x") == 'When and where does this happen: "x"? Answer with the time.'
    assert instruction("vtg", "x") == 'When does this happen: "x"? Answer with the time.'
    assert instruction("rec", "x") == 'Where is this: "x"?'
    assert answer("vtg", (1, 2)) == "From 1.0 to 2.0 seconds." and answer("rec") == "Here it is."


@pytest.mark.parametrize("kind", list(INSTRUCTIONS))
def test_phrasings_hold_the_query_and_all_are_used(kind):
    task, _, interrogative = kind.partition("/")
    made = Counter(instruction(task, 'the "odd" {one}', f"id{i}", bool(interrogative)) for i in range(500))
    assert len(made) == len(INSTRUCTIONS[kind]) >= 4
    assert min(made.values()) > 50  # of 100 each on average
    assert all('the "odd" {one}' in text for text in made)


def test_question_and_answer_are_drawn_apart():
    pairs = {(instruction("vtg", "x", f"id{i}"), answer("vtg", (1, 2), f"id{i}")) for i in range(500)}
    assert len(pairs) == len(INSTRUCTIONS["vtg"]) * len(ANSWERS["vtg"])


def test_a_second_run_gives_the_same_bytes_in_another_process(tmp_path):
    options = tacos(tmp_path)
    converted("tacos", tmp_path / "a.jsonl", **options)
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "spacevllm_plugin.cli.main", "convert", "tacos", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([*command, "--out", tmp_path / "b.jsonl"], check=True, capture_output=True, env=environment)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_the_index_keeps_its_other_entries(tmp_path):
    other = {"mine": {"file_name": "mine.jsonl", "columns": {"x": "y"}}, "tacos_train": {"file_name": "old.jsonl"}}
    write_json(tmp_path / "dataset_info.json", other)
    out = converted("tacos", tmp_path / "train.jsonl", **tacos(tmp_path))
    assert out.info == {**other, "tacos_train": {"file_name": "train.jsonl", "formatting": "spacevllm"}}


def test_entries_added_at_the_same_time_are_all_there(tmp_path):
    options = tacos(tmp_path, sentences=1)

    def convert_part(number):
        class Part(SOURCES["tacos"]):
            dataset = f"set{number}"

        convert(Part(**options), tmp_path / f"{number}.jsonl")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(convert_part, range(24)))

    assert set(json.loads((tmp_path / "dataset_info.json").read_text())) == {f"set{i}" for i in range(24)}


def test_a_broken_index_stops_before_the_work(tmp_path, capsys):
    (tmp_path / "dataset_info.json").write_text("{")
    assert run_convert("tacos", tmp_path / "train.jsonl", **tacos(tmp_path)) == 1
    assert "dataset_info.json: not valid JSON" in capsys.readouterr().err
    assert not (tmp_path / "train.jsonl").exists()


def test_a_killed_run_leaves_what_was_there(tmp_path):
    options = tacos(tmp_path, videos=300, sentences=100)
    out = tmp_path / "rows/train.jsonl"
    out.parent.mkdir()
    out.write_text("before\n")
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "spacevllm_plugin.cli.main", "convert", "tacos", *arguments, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Killed when it has written some rows, but not all 30,000.
    for _ in range(3000):
        if any(path.stat().st_size > 100_000 for path in out.parent.glob(".train.*.tmp.jsonl")):
            break

        assert process.poll() is None
        time.sleep(0.01)

    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert out.read_text() == "before\n"
    assert not (out.parent / "dataset_info.json").exists()
    assert len(converted("tacos", out, **options).rows) == 30_000


def test_the_raw_file_is_not_overwritten(tmp_path, capsys):
    options = tacos(tmp_path)
    before = options["annotations"].read_bytes()
    assert run_convert("tacos", options["annotations"], **options) == 2
    assert "is the file of --annotations" in capsys.readouterr().err
    assert options["annotations"].read_bytes() == before


def test_an_output_below_a_file_is_one_line(tmp_path, capsys):
    options = tacos(tmp_path)
    assert run_convert("tacos", options["annotations"] / "rows.jsonl", **options) == 1
    assert [line.startswith("spacevllm-cli") for line in capsys.readouterr().err.splitlines()].count(True) == 1


def test_table_progress_and_summary(tmp_path, capsys):
    converted("tacos", tmp_path / "train.jsonl", **tacos(tmp_path))
    captured = capsys.readouterr()
    assert "tacos.json: 100%" in captured.err
    assert [line.split() for line in captured.out.splitlines()[:4]] == [
        ["read", "60"],
        ["kept", "60"],
        ["repaired", "0"],
        ["dropped", "0"],
    ]
    summary = json.loads((tmp_path / "train.jsonl.summary.json").read_text())
    assert (summary["source"], summary["dataset"]) == ("tacos", "tacos_train")


@pytest.mark.parametrize("source", list(SOURCES))
def test_every_source_has_help_with_an_example(source, capsys):
    with pytest.raises(SystemExit) as end:
        main(["convert", source, "--help"])

    assert end.value.code == 0
    assert f"spacevllm-cli convert {source} --" in capsys.readouterr().out


def test_the_sources_of_the_interface():
    wanted = "hcstvg-v1,hcstvg-v2,vidstg,charades-sta,didemo,tacos,qvhighlights,activitynet,refcoco,st-align"
    questions = {"mvbench", "videomme", "tempcompass", "egoschema"}
    assert set(SOURCES) == {*wanted.split(","), "coco-refexp", "qwenvl-rec", *questions}


@pytest.mark.parametrize(
    "raw, text",
    [
        ("  A man\n\topens   the door. ", "A man opens the door"),
        ("“Hello”, she’s here", '"Hello", she\'s here'),
        ('"the red one"', "the red one"),
        ("cafe\u0301", "caf\u00e9"),
        ("who is it?", "who is it?"),
        (" . ", ""),
    ],
)
def test_tidy(raw, text):
    assert tidy(raw) == text


@pytest.mark.parametrize(
    "box, fitted",
    [
        ((0, 0, 10, 10), ((0, 0, 10, 10), None)),
        ((-0.4, 0, 10.4, 10), ((-0.4, 0, 10.4, 10), None)),
        ((-1, 0, 11, 10), ((0, 0, 10, 10), "box_cut_to_frame")),
        ((11, 0, 12, 10), (None, "empty_box_left_out")),
        ((5, 5, 5, 9), (None, "empty_box_left_out")),
        ((float("nan"), 0, 5, 5), (None, "empty_box_left_out")),
    ],
)
def test_fit_box(box, fitted):
    assert fit_box(box, 10, 10) == fitted


def vtg(media=None, **target):
    messages = [{"role": "user", "content": "<video>q"}, {"role": "assistant", "content": "a"}]
    row = {"id": "x", "task": "vtg", "messages": messages, "videos": ["v.mp4"], "target": target}
    return parse_row({**row, **({"media": media} if media else {})})


def test_vtg_rows_in_seconds_alone():
    assert vtg(span_seconds=[1, 2], windows_seconds=[[1, 2], [4, 5]]).media is None
    for target, says in (
        ({"span_seconds": [2, 1]}, "span_seconds .* is empty, reversed"),
        ({"span_frames": [1, 2], "span_seconds": [1, 2]}, "span_frames without media"),
        ({"windows_seconds": [[1, 2]]}, "needs target.span_seconds"),
        ({"span_seconds": [1, 2], "windows_seconds": [[3, 3]]}, "windows_seconds .* is empty"),
    ):
        with pytest.raises(RowError, match=says):
            vtg(**target)

    media = {"width": 8, "height": 8, "fps": 1.0, "num_frames": 9}
    with pytest.raises(RowError, match="needs target.span_frames"):
        vtg(media=media, span_seconds=[1, 2])


def test_written_rows_are_rows(tmp_path):
    for row in converted("tacos", tmp_path / "train.jsonl", **tacos(tmp_path)).rows:
        parsed = AnnotationRow.model_validate(row)
        assert read_span(parsed.messages[1].content) == parsed.target.span_seconds
