"""Bad rows in files: each is one short line that says where, whoever reads it."""

import json
import os
import threading
import warnings

import numpy as np
import pytest
from conftest import changed
from runs import write_data
from scoring import answer, constant, rec, stvg, vtg
from test_rows_file import QA, STVG, load

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.limits import MOST_FRAMES
from spacevllm_plugin.data.schema import PredictionRow, RowError, dump_row, parse_row, read_rows
from spacevllm_plugin.data.shortened import shortened
from spacevllm_plugin.data.timeline import Timeline
from spacevllm_plugin.data.tube import interpolate_boxes
from spacevllm_plugin.evaluation import evaluate
from spacevllm_plugin.evaluation.protocols import PROTOCOLS
from spacevllm_plugin.inference.predictor import finished


STVG_PROTOCOLS = [name for name, tasks in PROTOCOLS.items() if "stvg" in tasks]
REC_PROTOCOLS = [name for name, tasks in PROTOCOLS.items() if "rec" in tasks]
PREDICTION = {"id": "stvg", "span_frames": [4, 12], "frames": [4], "boxes": [[0, 10, 10, 20]]}
DEEP = "[" * 100_000 + "]" * 100_000


def run(tmp_path, truth, predicted, *options, task="stvg"):
    """Exit code of `evaluate` on two files of bytes, or of rows."""
    for name, content in (("g.jsonl", truth), ("p.jsonl", predicted)):
        text = content if isinstance(content, bytes) else "".join(json.dumps(row) + "\n" for row in content).encode()
        (tmp_path / name).write_bytes(text)

    files = ["--gt", str(tmp_path / "g.jsonl"), "--pred", str(tmp_path / "p.jsonl")]
    return main(["evaluate", task, *files, *options])


def complaint(capsys):
    """The one line on stderr."""
    (line,) = capsys.readouterr().err.split("\n")[:-1]
    assert len(line) < 500 and line.isprintable()
    return line.removeprefix("spacevllm-cli evaluate: ")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            changed(STVG, media__num_frames=10**12, target__span_frames=[0, 10**10]),
            "media.num_frames 1000000000000 is",
        ),
        (changed(STVG, media__num_frames=0), "media.num_frames 0 is"),
        (changed(STVG, media__height=10**300), "media.height 1000"),
        (changed(STVG, media__width=-48), "media.width -48 is none that a file has: 1 to 1e+06"),
        (changed(STVG, media__fps=0), "media.fps 0.0 is"),
        (changed(STVG, media__fps=-25), "media.fps -25.0 is"),
        (changed(STVG, media__fps=1e300), "media.fps 1e+300 is"),
        (changed(STVG, media__fps=float("nan")), "media.fps nan is"),
        (changed(STVG, media__clip=[-1, 9]), "media.clip -1 is"),
        (changed(STVG, target__span_seconds=[0, 1e300]), "span_seconds [0.0, 1e+300] is in no file"),
    ],
)
def test_what_no_file_has_is_a_rule_of_its_own(row, says):
    with pytest.raises(RowError, match=r"^row \(id stvg\): ") as caught:
        parse_row(row)

    assert caught.value.kind == "media-limits" and says in caught.value.reason
    assert len(str(caught.value)) < 300


def test_the_longest_file_is_allowed():
    parse_row(changed(STVG, media__num_frames=MOST_FRAMES))
    parse_row(changed(STVG, media__fps=1e-3, media__width=1_000_000))


@pytest.mark.parametrize("field", ["span_frames", "frames"])
@pytest.mark.parametrize("number", [10**18, 2**63, -(2**64), 10**400], ids=["1e18", "2^63", "-2^64", "1e400"])
def test_predicted_frames_of_no_file(tmp_path, capsys, field, number):
    numbers = [4, number] if field == "span_frames" else [number]
    assert run(tmp_path, [STVG], [{**PREDICTION, field: numbers}]) == 1
    assert complaint(capsys) == (
        f"p.jsonl:1 (id stvg): {field} holds a number beyond the {MOST_FRAMES} frames of any file"
    )


@pytest.mark.parametrize("protocol", STVG_PROTOCOLS)
@pytest.mark.parametrize(
    "span", [(-MOST_FRAMES, MOST_FRAMES), (MOST_FRAMES - 1, MOST_FRAMES), (MOST_FRAMES, -3), (-9, -2)]
)
def test_a_span_far_outside_is_a_wrong_answer(protocol, span, monkeypatch):
    """And takes no memory of its own: nothing is laid out over it."""
    arange = np.arange

    def small(*args, **kwargs):
        assert max(map(abs, args)) < 1000
        return arange(*args, **kwargs)

    monkeypatch.setattr(np, "arange", small)
    (item,) = evaluate("stvg", [stvg()], [constant(span)], protocol).items
    assert item["tIoU"] < 1e-6


@pytest.mark.parametrize("seconds", [(-1e308, 1e308), (1e308, 1.5e308), (-1e308, -1e307)])
def test_seconds_of_any_size(seconds):
    (item,) = evaluate("stvg", [stvg(fps=25.0)], [constant(None, span_seconds=seconds)]).items
    assert 0 <= item["tIoU"] <= 1
    (item,) = evaluate("vtg", [vtg((1.0, 2.0))], [answer(span_seconds=seconds)]).items
    assert 0 <= item["IoU"] < 1e-6
    assert Timeline(10, 25.0).frame_at(-1e308) == 0


@pytest.mark.parametrize("size", [1e200, 1e308])
@pytest.mark.parametrize("fill", ["linear", "none"])
def test_boxes_of_any_size(size, fill):
    """Their overlap with a true one is nothing beside them: IoU 0, and no warning."""
    boxes = [(-size, -size, size, size), (0.0, 0.0, size, size), (size, size, -size, -size)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for protocol in STVG_PROTOCOLS:
            for box in boxes:
                item = evaluate("stvg", [stvg()], [constant((2, 6), box)], protocol, fill).items[0]
                assert item["vIoU"] == 0 and item["tIoU"] > 0

            moving = answer((2, 6), [0, 9], [boxes[0], boxes[2]])
            assert evaluate("stvg", [stvg()], [moving], protocol).items[0]["vIoU"] is not None

        for protocol in REC_PROTOCOLS:
            for box in boxes:
                (item,) = evaluate("rec", [rec()], [answer(None, [0], [box])], protocol, fill).items
                assert list(item.values())[2] in (0, None)

        assert interpolate_boxes([0, 4], [[-size] * 4, [size] * 4], [1, 2])[:, 0].tolist() == [-size / 2, 0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ci", "100000000000"], "--ci takes a number from 1 to 1000000"),
        (["--ci", "9", "--seed", "-1"], "--seed takes a number from 0 on"),
        (["--gt-end-shift", "1000000000000"], "--gt-end-shift takes 1000 frames at most, in either direction"),
    ],
)
def test_options_beyond_sense(tmp_path, capsys, options, says):
    assert run(tmp_path, [STVG], [PREDICTION], *options) == 2
    assert complaint(capsys) == says


def test_intervals_of_one_item(tmp_path, capsys):
    assert run(tmp_path, [STVG], [PREDICTION], "--ci", "1", "--out", str(tmp_path / "m.json")) == 0
    assert json.loads((tmp_path / "m.json").read_text())["groups"]["all"]["ci"]["m_tIoU"] == [1, 1]


TEXT = json.dumps({**STVG, "query": "é"}, ensure_ascii=False)
BAD_LINES = {
    "deep": (f'{{"id": {DEEP}}}'.encode(), "recursion limit exceeded"),
    "digits": (b'{"id": "x", "task": ' + b"9" * 5000 + b"}", "number out of range"),
    "latin-1": (TEXT.encode("latin-1"), "not UTF-8 text: byte 0xe9 at column "),
    "utf-16": (TEXT.encode("utf-16"), "not UTF-8 text, but UTF-16"),
    "utf-16-be": (TEXT.encode("utf-16-be"), "UTF-16 or no text at all: a NUL byte at column 1"),
    "surrogate": (rb'{"id": "\ud800"}', r"`\ud800` to `\udfff` stand for a character in pairs only"),
    "cut": (b'{"id": "cut', "EOF while parsing a string at line 1 column 11"),
    "list": (b"[1]", "should be an object"),
    "null": (b"null", "should be an object"),
    "nan": (b'{"id": NaN}', "(id nan): id: Input should be a valid string"),
    "nul": (rb'{"id": "\u0000\n", "task": "x"}', r"(id \x00\n): task: Input should be"),
    "key": (json.dumps({**QA, "k\n" * 10**6: 1}).encode(), "(id qa): k\\nk\\nk\\n"),
    "id": (json.dumps({**QA, "id": "i" * 3_000_000, "task": 1}).encode(), f"(id {'i' * 53}…{'i' * 26}): task: "),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines_are_one_line(tmp_path, capsys, name):
    """The second of the file; the same from every reader."""
    line, says = BAD_LINES[name]
    good = json.dumps(QA).encode() + b"\n"
    assert run(tmp_path, good + line + b"\n", b"") == 1
    said = complaint(capsys)
    assert said.startswith("g.jsonl:2") and says in said
    assert run(tmp_path, [STVG], b"\n" + line) == 1
    assert complaint(capsys).startswith("p.jsonl:2")
    file, memory = tmp_path / "g.jsonl", tmp_path / "m"
    file.write_bytes(line + b"\n")
    assert main(["check", str(file), "--memory", str(memory), "--workers", "1", "--json", str(tmp_path / "r")]) == 1
    assert max(map(len, capsys.readouterr().out.splitlines())) < 300
    ((problem),) = json.loads((tmp_path / "r").read_text())["problems"].values()
    assert problem["count"] == 1 and len(problem["examples"][0]["message"]) < 300
    folder = write_data(tmp_path / "data", [])
    (folder / "rows.jsonl").write_bytes(good + line)
    good, bad = load(folder, tmp_path / "cache")
    assert good["row"] == QA
    if not name.startswith("utf-16"):
        assert bad["error"].startswith(f"{folder}/rows.jsonl:2") and says.replace("an object", "a") in bad["error"]


def test_a_mark_at_the_beginning_is_no_part_of_the_first_row(tmp_path):
    content = b"\xef\xbb\xbf" + json.dumps(STVG).encode() + b"\n" + json.dumps(QA).encode()
    folder = write_data(tmp_path / "data", [])
    (folder / "rows.jsonl").write_bytes(content)
    assert [row.id for row in read_rows(folder / "rows.jsonl")] == ["stvg", "qa"]
    assert [payload["row"]["id"] for payload in load(folder, tmp_path / "cache")] == ["stvg", "qa"]
    assert run(tmp_path, content, b"\xef\xbb\xbf" + json.dumps(PREDICTION).encode()) == 0


def test_a_pipe_and_a_folder_as_truth(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text(json.dumps(PREDICTION))
    pred = ["--pred", str(tmp_path / "p.jsonl")]
    assert main(["evaluate", "stvg", "--gt", str(tmp_path), *pred]) == 1
    assert "Is a directory" in complaint(capsys)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(json.dumps(STVG),))
    writer.start()
    assert main(["evaluate", "stvg", "--gt", str(tmp_path / "pipe"), *pred]) == 0
    writer.join()


def test_a_long_id_is_shortened_wherever_it_is_shown(tmp_path, capsys):
    long = "first" + "\n" * 300_000 + "last"
    truth = {**STVG, "id": long, "group": long, "tags": {long: long}}
    lost = {**PREDICTION, "id": long + "!"}
    assert run(tmp_path, [truth], [lost], "--protocol", "tubedetr") == 0
    out, err = capsys.readouterr()
    assert max(map(len, (out + err).splitlines())) < 400 and "first\\n" in out and "last" in err
    for rows, predictions, says in (
        ([truth, truth], [], "two annotation rows have the id first\\n"),
        ([truth], [{**PREDICTION, "id": long, "frames": []}], "0 frames but 1 boxes"),
        ([{**truth, "task": "vtg", "media": None, "target": {"span_seconds": [0, 1]}}], [{"id": long, "span_frames": [0, 1]}], "no frame rate"),
    ):  # fmt: skip
        assert run(tmp_path, rows, predictions, task=rows[0]["task"]) == 1
        assert says in complaint(capsys)


def test_shortened():
    assert shortened("as it is: é 漢") == "as it is: é 漢"
    assert shortened("a\tb\n\x1b[2J\u2028\ud800\0") == r"a\tb\n\x1b[2J\u2028\ud800\x00"
    assert shortened("a" * 100 + "b") == "a" * 53 + "…" + "a" * 25 + "b"
    assert shortened("\n" * 50, 10) == r"\n\n\n…n\n"
    assert len(shortened("\ud800" * 50)) == 80
    assert len(shortened("a" * 81)) == len(shortened("a" * 80)) == 80


@pytest.mark.parametrize(
    "line", [b"", b"a letter\n", b"[1]\n", b'{"id": 1}\n', b"{}\n", DEEP.encode() + b"\n", b"\xff\n"]
)
def test_predictions_are_not_added_to_another_file(tmp_path, line):
    out = tmp_path / "out.jsonl"
    out.write_bytes(line + b"unfinished")
    with pytest.raises(RowError, match=r"out.jsonl:1: not a prediction row; remove the file, or name another one$"):
        list(finished(out))

    assert out.read_bytes() == line + b"unfinished"
    good = dump_row(PredictionRow(id="a")).encode() + b"\n"
    out.write_bytes(good + b'{"unfinished')
    assert list(finished(out)) == [("a", good)] and out.read_bytes() == good
