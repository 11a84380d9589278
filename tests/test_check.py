"""`spacevllm-cli check`: what it finds, what it repairs, and that a killed run goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import changed, write_image, write_video

from spacevllm_plugin.check.library import CRASHED, Library
from spacevllm_plugin.check.media import Fault, Job
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.facts import Facts
from spacevllm_plugin.data.output import replaced
from spacevllm_plugin.data.schema import read_rows


# 20 frames at 4 a second: 5 seconds. The span is frames 4 to 11, seconds 1 to 3.
STVG = {
    "id": "stvg",
    "task": "stvg",
    "messages": [
        {"role": "user", "content": "<video>When and where?"},
        {"role": "assistant", "content": "From 1.0 to 3.0 seconds."},
    ],
    "videos": ["v.mp4"],
    "media": {"width": 48, "height": 48, "fps": 4.0, "num_frames": 20},
    "target": {
        "span_frames": [4, 12],
        "span_seconds": [1.0, 3.0],
        "frames": [4, 8, 11],
        "boxes": [[0, 10, 10, 20], [6, 10, 16, 20], [9, 10, 19, 20]],
    },
}
VTG = {**STVG, "id": "vtg", "task": "vtg", "target": {"span_frames": [4, 12], "span_seconds": [1.0, 3.0]}}
VTG_SECONDS = {**VTG, "id": "seconds", "target": {"span_seconds": [1.0, 3.0]}}
del VTG_SECONDS["media"]
REC = {
    "id": "rec",
    "task": "rec",
    "messages": [{"role": "user", "content": "<image>Where?"}, {"role": "assistant", "content": "Here it is."}],
    "images": ["i.png"],
    "media": {"width": 48, "height": 48},
    "target": {"frames": [0], "boxes": [[1, 2, 30, 40]]},
}
QA = {**REC, "id": "qa", "task": "qa"}
del QA["target"]


@pytest.fixture
def folder(tmp_path):
    write_video(tmp_path / "v.mp4", 20)
    write_image(tmp_path / "i.png")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "empty_folder").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "broken.png").write_bytes((tmp_path / "i.png").read_bytes()[:20])
    return tmp_path


def reply(text, role="assistant"):
    return [STVG["messages"][0], {"role": role, "content": text}]


def write_rows(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def check(folder, rows, *options):
    """Exit code and report of one run over these rows."""
    file = write_rows(folder / "rows.jsonl", rows)
    report = folder / "report.json"
    code = main(["check", str(file), "--media-dir", str(folder), "--json", str(report), "--workers", "2", *options])
    return code, json.loads(report.read_text())


# name -> (row or line, kind, part of the message)
UNUSABLE = {
    "json": ('{"id": "cut', "json", "EOF while parsing a string"),
    "not-an-object": ("[1]", "schema", "dictionary"),
    "field": (changed(REC, qury="x"), "schema", "qury: Extra inputs are not permitted"),
    "type": (changed(REC, media__width="wide"), "schema", "media.width: "),
    "no-width": (changed(REC, media__width=0), "media-limits", "media.width 0 is none that a file has"),
    "slow": (changed(VTG, media__fps=1e-300), "media-limits", "media.fps 1e-300 is"),
    "endless": (changed(VTG, media__num_frames=10**12), "media-limits", "media.num_frames 1000000000000 is"),
    "turns": (changed(REC, messages=[*REC["messages"], REC["messages"][1]]), "turns", "in turn"),
    "no-tag": (changed(QA, messages=[{"role": "user", "content": "a"}, QA["messages"][1]]), "tags", "0 <image>"),
    "tag-in-answer": (changed(STVG, messages=reply("<video>From 1.0 to 3.0 seconds.")), "tags", "of the assistant"),
    "missing": (changed(STVG, videos=["no.mp4"]), "media-missing", "0/no.mp4: No such file"),
    "empty": (changed(STVG, videos=["empty.mp4"]), "media-empty", "empty.mp4: the file is empty"),
    "empty-folder": (changed(STVG, videos=["empty_folder"]), "media-empty", "no frame images"),
    "broken": (changed(STVG, videos=["broken.mp4"]), "media-broken", "not a readable video"),
    "broken-image": (changed(QA, images=["broken.png"]), "media-broken", "broken.png"),
    "frame-missing": (changed(STVG, videos=[["i.png", "nowhere.png"]]), "media-missing", "nowhere.png"),
    "size": (changed(REC, media__width=50), "media-size", "50x48 pixels, but the file has 48x48"),
    "fps": (changed(VTG, media__fps=5.0), "media-fps", "5 frames a second, but the file has 4: 1.00 s apart"),
    "frames": (changed(VTG, media__num_frames=25), "media-frames", "25 frames, but the file has 20"),
    "clip": (changed(QA, images=None, videos=["v.mp4"], messages=[STVG["messages"][0], QA["messages"][1]],
                     media={"width": 48, "height": 48, "clip": [20, 30]}), "clip-outside", "none of the file's 20"),
    "span-reversed": (changed(VTG, target__span_frames=[12, 4]), "span-reversed", "[12, 4]"),
    "span-outside": (changed(VTG, target__span_frames=[20, 30]), "span-outside", "[20, 30]"),
    "span-before-clip": (changed(VTG, media__clip=[5, 20]), "span-outside", "[4, 12]"),
    "span-seconds": (changed(VTG, target__span_seconds=[1.0, 3.3]), "span-seconds", "[1.0, 3.0]"),
    "after-the-end": (changed(VTG_SECONDS, target__span_seconds=[6, 7]), "span-outside", "a video of 5.00 s"),
    "box-outside": (changed(REC, target__boxes=[[0, 0, 50.5, 40]]), "box-outside", "leaves the 48x48 frame"),
    "box-nan": (changed(REC, target__boxes=[[0, 0, float("nan"), 40]]), "box-nan", "not a number"),
    "box-flipped": (changed(REC, target__boxes=[[30, 2, 1, 40]]), "box-flipped", "[30.0, 2.0, 1.0, 40.0]"),
    "boxes-frames": (changed(STVG, target__frames=[4, 8]), "frames", "2 frames but 3 boxes"),
    "frames-falling": (changed(STVG, target__frames=[4, 11, 8]), "frames", "must increase"),
    "frame-before-clip": (changed(STVG, media__clip=[4, 20], target__frames=[3, 8, 11]), "frame-outside", "3..11"),
    "source-count": (changed(STVG, target__source_frames=[12]), "frames", "one of target.source_boxes for each"),
    "source-nan": (changed(STVG, target__source_frames=[12], target__source_boxes=[[0, 0, float("inf"), 9]]), "box-nan",
                   "source_boxes"),
    "source-of-a-span": (changed(VTG, target__source_frames=[12], target__source_boxes=[[0, 0, 9, 9]]), "target", "no box"),
    "tube-outside-span": (changed(STVG, target__frames=[0, 1, 2]), "frame-outside-span", "3 boxes outside"),
    "answer": (changed(VTG, messages=reply("From 1.0 to 3.1 seconds.")), "answer-span", "[1.0, 3.1] seconds, but"),
    "token": (changed(VTG, messages=reply("From <|staq|>1.0 to 3.0 seconds.")), "special-token", "in the assistant's"),
    "answer-silent": (changed(VTG, messages=reply("Somewhere.")), "answer-unreadable", "Somewhere"),
}  # fmt: skip


def test_every_kind_of_problem_is_named(folder, capsys):
    bad = {name: changed(row, id=name) if isinstance(row, dict) else row for name, (row, _, _) in UNUSABLE.items()}
    rows = [STVG, VTG, *bad.values(), REC, QA]
    code, report = check(folder, rows)
    assert code == 1
    assert (report["rows"], report["good"], report["dropped"]) == (len(bad) + 4, 4, len(bad))
    examples = {
        example["line"]: (kind, example) for kind, entry in report["problems"].items() for example in entry["examples"]
    }
    for line, (name, (row, kind, says)) in enumerate(UNUSABLE.items(), start=3):
        found, example = examples[line]
        assert (found, example["id"]) == (kind, name if isinstance(row, dict) else None), name
        assert says in example["message"] and "\n" not in example["message"]

    assert sum(entry["count"] for entry in report["problems"].values()) == len(bad)
    # v.mp4 and i.png; the two frame images count as one.
    assert report["media"] == {"files": 8, "examined": 2, "remembered": 0, "unusable": 6}
    out, err = capsys.readouterr()
    assert (
        "line 3, id None: EOF while parsing a string at line 1 column 11" in out
        and f"{len(bad)} of {len(rows)} rows have problems" in err
    )


def test_good_rows_pass(folder):
    exact = changed(STVG, id="more exact", messages=reply("From 0:01 to 0:03."))
    rounded = changed(VTG, id="rounded", target__span_seconds=[1.04, 2.96])
    frames = changed(QA, id="frames", images=None, videos=[["i.png", "i.png"]], messages=[
        STVG["messages"][0], QA["messages"][1]
    ])  # fmt: skip
    # What the source says outside the frame and behind the span is no error.
    source = changed(
        STVG, id="source", target__source_frames=[4, 12], target__source_boxes=[[-5, 10, 10, 60], [9, 1, 9, 1]]
    )
    code, report = check(folder, [STVG, "", exact, rounded, VTG, VTG_SECONDS, REC, QA, frames, source])
    assert code == 0
    assert report["good"] == report["rows"] == 9 and report["problems"] == {}


def test_duplicates_are_dropped(folder):
    code, report = check(folder, [VTG, changed(STVG, id="vtg"), QA], "--fix", str(folder / "good.jsonl"))
    assert code == 0 and [row.task for row in read_rows(folder / "good.jsonl")] == ["vtg", "qa"]
    (example,) = report["problems"]["duplicate-id"]["examples"]
    assert example == {"line": 2, "id": "vtg", "message": "line 1 has the same id"}


def tube(frames, left):
    """Boxes of 10 x 10 pixels by their left edges."""
    return {"target__frames": frames, "target__boxes": [[x, 10.0, x + 10.0, 20.0] for x in left]}


# name -> (row, kinds, the row that must come out)
REPAIRED = {
    "box": (
        changed(REC, target__boxes=[[-1, 2, 50.4, 40]]),
        ["box-outside"],
        changed(REC, target__boxes=[[0.0, 2.0, 48.0, 40.0]]),
    ),
    "end": (
        changed(
            STVG,
            target__span_frames=[4, 30],
            target__span_seconds=[1.0, 7.5],
            messages=reply("It is seen from 1.0 to 7.50 s."),
            **tube([4, 8, 28], [0.0, 0.0, 20.0]),
        ),
        ["span-beyond-end"],
        changed(
            STVG,
            target__span_frames=[4, 20],
            target__span_seconds=[1.0, 5.0],
            messages=reply("It is seen from 1.0 to 5.00 s."),
            **tube([4, 8, 19], [0.0, 0.0, 11.0]),
        ),
    ),
    "seconds-end": (
        changed(
            VTG,
            target__span_frames=[4, 20],
            target__span_seconds=[1.0, 9.0],
            messages=reply("From 1.0 to 9.0 seconds."),
        ),
        ["span-beyond-end"],
        changed(
            VTG,
            target__span_frames=[4, 20],
            target__span_seconds=[1.0, 5.0],
            messages=reply("From 1.0 to 5.0 seconds."),
        ),
    ),
    "around": (
        changed(STVG, **tube([2, 8, 14], [0.0, 6.0, 18.0])),
        ["frame-outside-span"],
        changed(STVG, **tube([4, 8, 11], [2.0, 6.0, 12.0])),
    ),
    "longer": (
        changed(STVG, media__num_frames=22, media__clip=[0, 22]),
        ["media-frames"],
        changed(STVG, media__clip=[0, 20]),
    ),
    "source-behind-the-file": (
        changed(
            STVG,
            media__num_frames=21,
            target__span_frames=[4, 20],
            target__span_seconds=[1.0, 5.0],
            target__source_frames=[8, 20],
            target__source_boxes=[[-9.0, 1.0, 5.0, 5.0]] * 2,
            messages=reply("From 1.0 to 5.0 seconds."),
        ),
        ["media-frames", "frame-outside"],
        changed(
            STVG,
            target__span_frames=[4, 20],
            target__span_seconds=[1.0, 5.0],
            target__source_frames=[8],
            target__source_boxes=[[-9.0, 1.0, 5.0, 5.0]],
            messages=reply("From 1.0 to 5.0 seconds."),
        ),
    ),
    "shorter-file": (
        changed(
            VTG,
            media__num_frames=22,
            target__span_frames=[4, 22],
            target__span_seconds=[1.0, 5.5],
            messages=reply("From 1.0 to 5.5 seconds."),
        ),
        ["media-frames", "span-beyond-end"],
        changed(
            VTG,
            target__span_frames=[4, 20],
            target__span_seconds=[1.0, 5.0],
            messages=reply("From 1.0 to 5.0 seconds."),
        ),
    ),
    "seconds-alone": (
        {
            **changed(VTG, messages=reply("From 1.0 to 9.0 seconds."), target={"span_seconds": [1.0, 9.0]}),
            "media": None,
        },
        ["span-beyond-end"],
        changed(VTG_SECONDS, target__span_seconds=[1.0, 5.0], messages=reply("From 1.0 to 5.0 seconds.")),
    ),
    "size-without-boxes": (changed(VTG, media__width=640, media__height=360), ["media-size"], VTG),
}


def test_what_can_be_repaired(folder, capsys):
    rows = [changed(row, id=name) for name, (row, _, _) in REPAIRED.items()]
    assert check(folder, rows)[0] == 1
    good, bad = json.dumps(QA).replace(": ", ":"), changed(REC, id="bad", target__boxes=[[9, 9, 9, 9]])
    code, report = check(folder, [good, *rows, bad], "--fix", str(folder / "fixed.jsonl"))
    assert code == 0
    assert (report["good"], report["repaired"], report["dropped"]) == (1, len(rows), 1)
    lines = (folder / "fixed.jsonl").read_text().splitlines()
    assert lines[0] == good  # as it stood
    for line, (name, (_, _, meant)) in zip(lines[1:], REPAIRED.items(), strict=True):
        assert json.loads(line) == changed(meant, id=name)

    counts = {kind: (entry["count"], entry["repaired"]) for kind, entry in report["problems"].items()}
    assert counts == {
        "span-beyond-end": (4, 4),
        "media-frames": (3, 3),
        "box-outside": (1, 1),
        "frame-outside": (1, 1),
        "frame-outside-span": (1, 1),
        "media-size": (1, 1),
        "box-flipped": (1, 0),
    }
    assert f"written: {len(rows) + 1} rows to {folder / 'fixed.jsonl'}" in capsys.readouterr().out
    # What was written has nothing left to find.
    code, report = check(folder, lines)
    assert code == 0 and report["good"] == len(lines)


def test_varying_rate_uses_the_file_s_own_times(folder):
    # 20 frames, the first ten 100 ms apart, then 300 ms: frame 12 starts at 10 * 0.1 + 2 * 0.3 = 1.6 s.
    write_video(folder / "vfr.mp4", 20, times=[100 * i if i < 10 else 1000 + 300 * (i - 10) for i in range(20)])
    fps = 19 / 3.7
    base = changed(VTG, videos=["vfr.mp4"], media__fps=fps)
    own = changed(base, id="own", target__span_seconds=[0.4, 1.6], messages=reply("From 0.4 to 1.6 seconds."))
    nominal = changed(base, id="nominal", target__span_seconds=[4 / fps, 12 / fps], messages=reply("0.8 to 2.3 s"))
    other = changed(own, id="other", target__span_frames=[10, 12], target__span_seconds=[1.0, 1.6],
                    messages=reply("1.0 to 1.6"))  # fmt: skip
    for _ in range(2):  # the second time from memory
        _, report = check(folder, [own, nominal, other])
        assert report["good"] == 2
        assert report["problems"]["span-seconds"]["examples"][0]["id"] == "nominal"

    assert report["media"]["remembered"] == 1


def test_decode_finds_what_the_header_hides(folder):
    path = folder / "cut.png"
    path.write_bytes((folder / "i.png").read_bytes()[:-40])
    video = folder / "late.mp4"
    video.write_bytes((folder / "v.mp4").read_bytes())
    rows = [changed(QA, images=["cut.png"]), VTG]
    assert check(folder, rows)[0] == 0
    code, report = check(folder, rows, "--decode", "--video-maxlen", "8")
    assert code == 1 and report["problems"]["media-broken"]["count"] == 1
    assert "cut.png" in report["problems"]["media-broken"]["examples"][0]["message"]


def test_changed_files_are_looked_at_again(folder):
    assert check(folder, [VTG, QA])[1]["media"]["examined"] == 2
    assert check(folder, [VTG, QA])[1]["media"]["remembered"] == 2
    write_video(folder / "v.mp4", 10)
    code, report = check(folder, [VTG, QA])
    assert code == 1 and report["media"] == {"files": 2, "examined": 1, "remembered": 1, "unusable": 0}
    assert "but the file has 10" in report["problems"]["media-frames"]["examples"][0]["message"]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_run_goes_on(folder):
    names = [f"copy{i}.mp4" for i in range(150)]
    for name in names:
        os.link(folder / "v.mp4", folder / name)

    rows = [changed(VTG, id=name, videos=[name]) for name in names]
    file, memory = write_rows(folder / "rows.jsonl", rows), folder / "rows.jsonl.media"
    command = [sys.executable, "-m", "spacevllm_plugin.cli.main", "check", str(file), "--decode", "--workers", "2"]
    process = subprocess.Popen([*command, "--fix", str(folder / "good.jsonl")], stderr=subprocess.DEVNULL)
    while not memory.exists() or memory.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.005)

    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "good.jsonl").exists()
    done = memory.read_bytes().count(b"\n")
    assert 5 <= done < len(names)
    with open(memory, "ab") as unfinished:
        unfinished.write(b'{"key": "video')

    code, report = check(folder, rows, "--decode", "--fix", str(folder / "good.jsonl"))
    assert code == 0 and report["good"] == len(names)
    assert report["media"] == {"files": 150, "examined": 150 - done, "remembered": done, "unusable": 0}
    keys = [json.loads(line)["key"] for line in memory.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == len(names)
    assert (folder / "good.jsonl").read_text() == file.read_text()
    deadline = time.time() + 30
    while any(map(alive, children)) and time.time() < deadline:
        time.sleep(0.1)

    assert children and not any(map(alive, children))


class Killer(Job):
    """Ends the process that takes it up."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_file_that_kills_its_reader_is_named(folder):
    jobs = [Job(str(folder / "v.mp4"), True), Killer("bad.mp4", True), Job(str(folder / "i.png"), False)]
    with Library(folder / "memory", workers=2) as library:
        library.examine_all(jobs)
        assert library[jobs[0]] == Facts(48, 48, 20, 4.0)
        assert library[jobs[1]] == Fault("media-broken", f"bad.mp4: {CRASHED}")
        assert library[jobs[2]] == Facts(48, 48)


def test_nothing_is_written_over(folder, capsys):
    file = write_rows(folder / "rows.jsonl", [VTG])
    before = file.read_bytes()
    os.link(file, folder / "hard.jsonl")
    (folder / "soft.jsonl").symlink_to(file)
    base = ["check", str(file), "--media-dir", str(folder)]
    for option in ("--fix", "--json", "--memory"):
        for path in (file, folder / "hard.jsonl", folder / "soft.jsonl"):
            assert main([*base, option, str(path)]) == 2
            assert f"{option} {path} is the file of FILE.jsonl" in capsys.readouterr().err

    assert main([*base, "--memory", str(write_rows(folder / "other.jsonl", [QA]))]) == 1
    assert "was not written by a check" in capsys.readouterr().err
    assert file.read_bytes() == before and json.loads((folder / "other.jsonl").read_text()) == QA


def test_half_a_character_is_one_problem_among_others(folder, capsys):
    """JSON may hold half of a surrogate pair; neither a report nor a terminal can."""
    file = write_rows(folder / "rows.jsonl", [VTG, {**VTG, "id": "\ud800"}])
    report = folder / "report.json"
    assert main(["check", str(file), "--media-dir", str(folder), "--json", str(report), "--workers", "1"]) == 1
    captured = capsys.readouterr()
    assert "1 of 2 rows have problems" in captured.err and "\\ud800" in captured.out
    assert json.loads(report.read_text())["good"] == 1


def test_two_checks_that_write_one_file_leave_it_whole(folder):
    """As whatever is written by `data.output`, which all commands use."""
    with replaced(folder / "x.jsonl") as first:
        first.write(b"first\n")
        with replaced(folder / "x.jsonl") as second:
            second.write(b"2\n")

        assert (folder / "x.jsonl").read_bytes() == b"2\n"

    assert (folder / "x.jsonl").read_bytes() == b"first\n" and not list(folder.glob(".*"))


def test_bad_usage_is_one_line(folder, capsys):
    file = write_rows(folder / "rows.jsonl", [])
    for options, says in (
        ([str(folder / "none.jsonl")], "no such file"),
        ([str(file), "--media-dir", str(folder / "none")], "no such folder"),
        ([str(file), "--fix", str(folder / "none" / "x.jsonl")], "no such folder"),
        ([str(file)], "holds no rows"),
    ):
        assert main(["check", *options]) == 1
        assert says in capsys.readouterr().err.splitlines()[-1]

    write_rows(file, ["{"])
    assert main(["check", str(file), "--fix", str(folder / "x.jsonl")]) == 1
    assert "no row" in capsys.readouterr().err.splitlines()[-1]
