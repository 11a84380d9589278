"""Annotation files as LLaMA-Factory's loader reads them: large, mixed, broken, in several parts."""

import json
from types import SimpleNamespace

from conftest import changed
from runs import write_data


STVG = {
    "id": "stvg",
    "task": "stvg",
    "messages": [
        {"role": "user", "content": "<video>When and where?"},
        {"role": "assistant", "content": "From 1.0 to 3.0 seconds."},
    ],
    "videos": ["v.mp4"],
    "media": {"width": 48, "height": 48, "fps": 4, "num_frames": 20},
    "target": {"span_frames": [4, 12], "span_seconds": [1, 3], "frames": [4], "boxes": [[0, 10, 10, 20]]},
}
QA = {
    "id": "qa",
    "task": "qa",
    "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}],
}


def load(folder, cache, **overrides):
    """The payload of every row of the set `rows`."""
    from llamafactory.data import loader
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments

    data_args = DataArguments(dataset_dir=str(folder), **overrides)
    model_args = SimpleNamespace(cache_dir=str(cache), hf_hub_token=None)
    training_args = SimpleNamespace(local_process_index=0, process_index=0)
    (attributes,) = get_dataset_list(["rows"], str(folder))
    table = loader._load_single_dataset(attributes, model_args, data_args, training_args)
    return [json.loads(payload) for payload in table["_spacevllm"]]


def test_large_files_may_mix_kinds_of_rows(tmp_path):
    """Arrow takes the types of the first 10 MB for those of the whole file."""
    filler = "the man in red opens the door " * 500
    first = [changed(STVG, id=f"stvg/{i}", query=filler) for i in range(800)]
    fractions = changed(STVG, id="fractions", target__boxes=[[0.5, 10.25, 10.5, 20.125]], media__fps=29.97)
    frames = changed(STVG, id="frames", videos=[["a.jpg", "b.jpg"]])
    dated = changed(QA, id="dated", query="2026-01-01", tags={"only": "here"})
    rows = [*first, fractions, frames, dated, QA]
    write_data(tmp_path / "data", rows)
    assert (tmp_path / "data" / "rows.jsonl").stat().st_size > 12e6
    assert [payload["row"] for payload in load(tmp_path / "data", tmp_path / "cache")] == rows


def test_bad_lines_are_bad_rows(tmp_path):
    """One of them is named by file and line; the others are still there."""
    folder = write_data(tmp_path / "data", [])
    odd = changed(QA, id="odd", messages=[QA["messages"][0], {"role": "assistant", "content": "one\u2028two\x85"}])
    lines = [
        b"\xef\xbb\xbf" + json.dumps(STVG).encode() + b"\r",
        b"",
        b'{"id": "cut", "task": ',
        json.dumps(odd, ensure_ascii=False).encode(),
        b'{"id": "\xff"}',
        b"[1]",
        b"  ",
        json.dumps(changed(QA, id="field", qury="x")).encode(),
        json.dumps(changed(QA, id="turns", messages=QA["messages"][1:])).encode(),
        json.dumps(QA).encode(),
    ]
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    payloads = load(folder, tmp_path / "cache")
    assert [payload["row"] for payload in payloads if "row" in payload] == [STVG, odd, QA]
    errors = [payload["error"] for payload in payloads if "error" in payload]
    for error, (number, says) in zip(
        errors,
        [
            (3, "Invalid JSON"),
            (5, ": not UTF-8 text: byte 0xff at column 9"),
            (6, "object"),
            (8, "(id field): qury"),
            (9, "(id turns): the"),
        ],
        strict=True,
    ):
        assert error.startswith(f"{folder / 'rows.jsonl'}:{number}") and says in error


def test_other_ways_to_name_files(tmp_path):
    """A folder of files, parts of them, and an array of rows, which Arrow still reads."""
    rows = [changed(QA, id=f"{i}") for i in range(6)]
    folder = write_data(tmp_path / "data", rows[:4])
    info = json.loads((folder / "dataset_info.json").read_text())

    def ids(**entry):
        (folder / "dataset_info.json").write_text(json.dumps({"rows": {**info["rows"], **entry}}))
        return [payload["row"]["id"] for payload in load(folder, tmp_path / "cache")]

    assert ids(split="train[1:3]") == ["1", "2"]
    assert len(ids(num_samples=7)) == 7
    (folder / "parts").mkdir()
    (folder / "rows.jsonl").rename(folder / "parts" / "a.jsonl")
    (folder / "parts" / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[4:]))
    assert sorted(ids(file_name="parts")) == [row["id"] for row in rows]
    (folder / "rows.json").write_text(json.dumps(rows))
    assert ids(file_name="rows.json") == [row["id"] for row in rows]


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    folder = write_data(tmp_path / "data", [QA])
    assert len(load(folder, tmp_path / "cache")) == 1
    write_data(folder, [QA, changed(QA, id="more")])
    assert len(load(folder, tmp_path / "cache")) == 2


def test_other_formats_are_read_as_ever(tmp_path):
    from llamafactory.data import loader
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments

    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "alpaca.jsonl").write_text(json.dumps({"instruction": "a", "input": "b", "output": "c"}) + "\n")
    (folder / "dataset_info.json").write_text(json.dumps({"alpaca": {"file_name": "alpaca.jsonl"}}))
    (attributes,) = get_dataset_list(["alpaca"], str(folder))
    table = loader._load_single_dataset(
        attributes,
        SimpleNamespace(cache_dir=str(tmp_path / "cache"), hf_hub_token=None),
        DataArguments(dataset_dir=str(folder)),
        SimpleNamespace(local_process_index=0),
    )
    assert table[0]["_response"][0]["content"] == "c"
