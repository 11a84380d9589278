"""`unistg mix`: what is asked for is what is written, and the same each time."""

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
import yaml
from unistg_parts import read_lines, vtg, write_lines

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.unistg.mix import Mixture, mix


PAPER = Path(__file__).parents[1] / "examples" / "unistg" / "mix.yaml"


def rec(row_id, image="i.png"):
    return {
        "id": row_id,
        "task": "rec",
        "query": "the cat",
        "messages": [{"role": "user", "content": "<image>Where?"}, {"role": "assistant", "content": "Here."}],
        "images": [image],
        "media": {"width": 100, "height": 80},
        "target": {"frames": [0], "boxes": [[1, 2, 30, 40]]},
    }


@pytest.fixture
def folder(tmp_path):
    """10 + 10 vtg rows in two files, 100 rec rows."""
    write_lines(tmp_path / "a.jsonl", [vtg(f"a/{i}") for i in range(10)])
    write_lines(tmp_path / "b.jsonl", [vtg(f"b/{i}") for i in range(10)])
    write_lines(tmp_path / "r.jsonl", [rec(f"r/{i}") for i in range(100)])
    return tmp_path


def config(folder, total=40, seed=0, **parts):
    parts = parts or {
        "spans": {"weight": 1, "files": ["a.jsonl", "b.jsonl"]},
        "boxes": {"weight": 3, "files": ["r.jsonl"]},
    }
    path = folder / "mix.yaml"
    path.write_text(yaml.safe_dump({"total": total, "seed": seed, "parts": parts}))
    return path


def run(folder, out, *more, **settings):
    path = config(folder, **settings)
    return main(["unistg", "mix", "--config", str(path), "--data-dir", str(folder), "--out", str(out), *more])


def test_paper_numbers():
    assert Mixture.load(PAPER).wanted() == {"vtg": 50_000, "rec": 320_000, "stvg": 110_000, "general": 200_000}


def test_shares_are_whole_rows_that_add_up():
    """7 rows by 1 : 1 : 1 are 2.33 each: the first gets the one that is left; by 1 : 2 : 4 nothing is left."""
    parts = {name: {"weight": 1, "files": ["x"]} for name in "abc"}
    assert Mixture(total=7, parts=parts).wanted() == {"a": 3, "b": 2, "c": 2}
    for name, weight in zip("abc", (1, 2, 4)):
        parts[name]["weight"] = weight

    assert Mixture(total=7, parts=parts).wanted() == {"a": 1, "b": 2, "c": 4}
    # 2.5 : 7.5 of 10, the larger remainder being equal, the first.
    assert Mixture(total=10, parts={"a": {**parts["a"]}, "b": {**parts["a"], "weight": 3}}).wanted() == {
        "a": 3,
        "b": 7,
    }


def test_composition(folder, capsys):
    out = folder / "made" / "mix.jsonl"
    assert run(folder, out) == 0
    rows = list(read_rows(out))
    assert Counter(row.task for row in rows) == {"vtg": 10, "rec": 30}
    assert len({row.id for row in rows}) == 40
    # Evenly mixed: each ten rows have two or three of the ten vtg rows.
    assert all(2 <= sum(row.task == "vtg" for row in rows[i : i + 10]) <= 3 for i in range(0, 40, 10))
    # Rows are taken as they are.
    assert set(out.read_text().splitlines()) <= {
        line for name in "abr" for line in (folder / f"{name}.jsonl").read_text().splitlines()
    }
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info == {"mix": {"file_name": "made/mix.jsonl", "formatting": "spacevllm"}}
    table = capsys.readouterr().out
    assert ["spans", "10", "20", "10", "25.0%", "25.0%"] in [line.split() for line in table.splitlines()]
    assert ["boxes", "30", "100", "30", "75.0%", "75.0%"] in [line.split() for line in table.splitlines()]
    assert "by task: stvg 0, vtg 10, rec 30, qa 0" in table
    counts = json.loads((folder / "made" / "mix.jsonl.counts.json").read_text())
    assert counts["parts"]["spans"] == {"wanted": 10, "there": 20, "rows": 10, "repeated": 0}


def test_same_seed_same_bytes_whatever_the_order_of_the_files(folder):
    first, again, turned, other, more = (
        folder / f"{name}.out" for name in ("first", "again", "turned", "other", "more")
    )
    assert run(folder, first) == run(folder, again) == 0
    assert first.read_bytes() == again.read_bytes()
    parts = {"spans": {"weight": 1, "files": ["b.jsonl", "a.jsonl"]}, "boxes": {"weight": 3, "files": ["r.jsonl"]}}
    assert run(folder, turned, **parts) == 0 and turned.read_bytes() == first.read_bytes()
    assert run(folder, other, "--seed", "1") == 0 and set(read_ids(other)) != set(read_ids(first))
    assert run(folder, more, "--total", "60") == 0
    assert set(read_ids(first)) < set(read_ids(more)) and len(read_ids(more)) == 60


def read_ids(path):
    return [row["id"] for row in read_lines(path)]


def short(when, **more):
    """50 rows are wanted of 20, and 50 of 100."""
    return {
        "spans": {"weight": 1, "files": ["a.jsonl", "b.jsonl"], "when_short": when, **more},
        "boxes": {"weight": 1, "files": ["r.jsonl"]},
    }


def test_short_part_is_taken_as_it_is_and_said(folder, capsys):
    out = folder / "mix.jsonl"
    assert run(folder, out, total=100, **short("take")) == 0
    assert Counter(row["task"] for row in read_lines(out)) == {"vtg": 20, "rec": 50}
    output = capsys.readouterr()
    assert "part 'spans' has 30 rows fewer than wanted: the mixture is smaller" in output.err
    assert ["spans", "50", "20", "20", "50.0%", "28.6%"] in [line.split() for line in output.out.splitlines()]


def test_short_part_is_repeated_on_request(folder, capsys):
    out = folder / "mix.jsonl"
    assert run(folder, out, total=100, **short("repeat")) == 0
    ids = read_ids(out)
    assert len(ids) == len(set(ids)) == 100
    # 20 rows, then 20 again, then 10 of them a third time.
    assert Counter(row_id.partition("#")[2] for row_id in ids if not row_id.startswith("r/")) == {
        "": 20,
        "2": 20,
        "3": 10,
    }
    assert len(list(read_rows(out))) == 100
    assert "30 rows are repeated" in capsys.readouterr().err


def test_short_part_stops_on_request(folder, capsys):
    out = folder / "mix.jsonl"
    assert run(folder, out, total=100, **short("stop")) == 1
    assert "part 'spans' has 20 usable rows, 50 are wanted" in capsys.readouterr().err
    assert not out.exists() and not (folder / "dataset_info.json").exists()


def test_bad_and_duplicate_rows_are_left_out_and_said(folder, capsys):
    bad = {**vtg("bad"), "task": "video"}
    write_lines(folder / "a.jsonl", [bad, "{", vtg("b/3"), "", *(vtg(f"a/{i}") for i in range(10))])
    out = folder / "mix.jsonl"
    assert run(folder, out, total=40, **short("take")) == 0
    assert "left out 2 bad rows and 1 with an id that was there before" in (error := capsys.readouterr().err)
    assert "a.jsonl:1 (id bad)" in error
    assert Counter(row["task"] for row in read_lines(out)) == {"vtg": 20, "rec": 20}


def test_the_mark_of_an_editor_is_no_part_of_a_row(folder):
    file = folder / "a.jsonl"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    parts = {"spans": {"weight": 1, "files": ["b.jsonl", "a.jsonl"]}}
    assert run(folder, folder / "mix.jsonl", total=20, **parts) == 0
    assert {row["id"] for row in read_lines(folder / "mix.jsonl")} == {
        f"{name}/{i}" for name in "ab" for i in range(10)
    }


def test_media_paths_get_their_folder(folder):
    out = folder / "mix.jsonl"
    write_lines(
        folder / "a.jsonl", [{**vtg("list"), "videos": [["f/0.png", "f/1.png"]]}, vtg("abs", video="/d/v.mp4")]
    )
    parts = {"spans": {"weight": 1, "files": ["a.jsonl"], "media_prefix": "charades"}}
    assert run(folder, out, total=2, **parts) == 0
    assert {row["id"]: row["videos"] for row in read_lines(out)} == {
        "list": [["charades/f/0.png", "charades/f/1.png"]],
        "abs": ["/d/v.mp4"],
    }


def test_a_part_is_not_overwritten(folder, capsys):
    before = (folder / "r.jsonl").read_bytes()
    assert run(folder, folder / "r.jsonl") == 1
    assert "would be overwritten" in capsys.readouterr().err and (folder / "r.jsonl").read_bytes() == before


def test_entries_of_others_stay(folder):
    (folder / "dataset_info.json").write_text('{"mine": {"file_name": "x.json"}}')
    assert run(folder, folder / "mix.jsonl", "--name", "all") == 0
    assert list(json.loads((folder / "dataset_info.json").read_text())) == ["mine", "all"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("total: 5", "parts: Field required"),
        ("total: 0\nparts: {a: {weight: 1, files: [a.jsonl]}}", "total: Input should be greater than 0"),
        ("total: 5\nparts: {a: {weight: 1, file: [a.jsonl]}}", "parts.a.files"),
        ("total: 5\nparts: {a: {weight: 0, files: [a.jsonl]}}", "parts.a.weight"),
        ("total: 5\nparts: {a: {weight: 1, files: [nowhere.jsonl]}}", "nowhere.jsonl"),
        ("total: [", "mix.yaml"),
    ],
)
def test_bad_configuration_is_one_line(folder, capsys, text, says):
    (folder / "mix.yaml").write_text(text)
    command = ["--config", str(folder / "mix.yaml"), "--data-dir", str(folder), "--out", str(folder / "o.jsonl")]
    assert main(["unistg", "mix", *command]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert says in lines[-1] and sum(line.startswith("spacevllm-cli unistg") for line in lines) == 1


def test_contents_are_not_held_in_memory(tmp_path):
    """2,000 rows of 20 kB each, 40 MB: what is held stays far below, and does not depend on the rows' size."""
    rows = []
    for i in range(2000):
        row = rec(f"r/{i}")
        row["messages"][1]["content"] = "x" * 20_000
        rows.append(row)

    write_lines(tmp_path / "r.jsonl", rows)
    del rows
    mixture = Mixture(total=2000, parts={"boxes": {"weight": 1, "files": ["r.jsonl"]}})
    tracemalloc.start()
    try:
        mix(mixture, tmp_path, tmp_path / "mix.jsonl", "mix")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (tmp_path / "mix.jsonl").stat().st_size > 40e6
    assert peak < 3e6
