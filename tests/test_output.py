"""Every command with an output: whole or not at all, and nothing replaced that is not a regular file."""

import gzip
import json
import os
import resource
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import write_image
from scoring import BOX, rec
from scoring import answer as prediction
from test_convert import tacos
from unistg_parts import annotated, frame, vtg, write_lines

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.jsonl import append_lines, recover
from spacevllm_plugin.data.output import OutputError, Outputs, appended, descriptor, replaced
from spacevllm_plugin.data.schema import dump_row
from spacevllm_plugin.data.video import VideoRef
from spacevllm_plugin.inference.draw_row import file_name
from spacevllm_plugin.inference.render import render_video, tube_from_target


ITEMS = 1000  # enough for outputs of more bytes than LIMIT
LIMIT = 20_000
TALK = [{"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": "Nobody."}]


@pytest.fixture
def folder(tmp_path):
    """Inputs for every command."""
    tacos(tmp_path, sentences=ITEMS)
    write_lines(tmp_path / "gt.jsonl", [dump_row(rec(id=str(i))) for i in range(ITEMS)])
    write_lines(tmp_path / "pred.jsonl", [dump_row(prediction(None, [0], [BOX], id=str(i))) for i in range(ITEMS)])
    write_lines(tmp_path / "text.jsonl", [{"id": str(i), "task": "qa", "messages": TALK} for i in range(ITEMS)])
    frames = [frame(number, (0, 0.9, 1, 1, 50, 50)) for number in range(100)]
    write_lines(tmp_path / "annotated.jsonl", [annotated("a", frames).model_dump_json(exclude_none=True)])
    write_lines(tmp_path / "part.jsonl", [vtg("v")])
    (tmp_path / "mix.yaml").write_text(
        json.dumps({"total": 1, "parts": {"p": {"weight": 1, "files": ["part.jsonl"]}}})
    )
    return tmp_path


def arguments(folder, command):
    """The arguments of a command without its output."""
    return {
        "convert": ["convert", "tacos", "--annotations", folder / "tacos.json", "--split", "train"],
        "evaluate": ["evaluate", "rec", "--gt", folder / "gt.jsonl", "--pred", folder / "pred.jsonl"],
        "check": ["check", folder / "text.jsonl", "--workers", "1"],
        # Refused before the model is looked for.
        "predict": ["predict", "--model", folder / "no", "--data", folder / "gt.jsonl"],
        "ground": ["ground", "--model", folder / "no", "--query", "x", "--video", folder / "v.mp4"],
        "unistg": ["unistg", "refine", "--data", folder / "annotated.jsonl"],
        "mix": ["unistg", "mix", "--config", folder / "mix.yaml", "--data-dir", folder],
        "synth": ["synth", "--num-videos", "1"],
        "make-tiny": ["make-tiny", "qwen3_vl"],
        "render": ["render", "--data", folder / "gt.jsonl", "--media-dir", folder, "--limit", "1"],
        "benchmark": ["benchmark", "refcoco", "--model", folder / "no", "--data-dir", folder],
    }[command]


STREAMED = [
    ("convert", "--out"),
    ("evaluate", "--out"),
    ("evaluate", "--items"),
    ("check", "--fix"),
    ("check", "--json"),
]
STREAMED.append(("ground", "--out"))
ONLY_FILES = [
    ("predict", "--out"),
    ("check", "--memory"),
    ("ground", "--render"),
    ("unistg", "--out"),
    ("mix", "--out"),
]
ONLY_FOLDERS = [(command, "--out") for command in ("synth", "make-tiny", "render", "benchmark")]


def run(folder, command, *options):
    return main([str(argument) for argument in (*arguments(folder, command), *options)])


def state(folder):
    """Every path below a folder, what it is and what it holds."""

    def content(path):
        mode = path.lstat().st_mode
        return (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)
        )

    return {path: content(path) for path in folder.rglob("*")}


def refused(capsys, code, *says):
    """One line says why, with no more than what is printed before."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert code in (1, 2) and len(lines) == 1 and lines[0].startswith("spacevllm-cli "), captured.err
    assert not captured.out and all(str(text) in lines[0] for text in says), lines[0]


@pytest.mark.parametrize(("command", "option"), [*STREAMED, *ONLY_FILES])
def test_a_folder_is_no_file(folder, capsys, command, option):
    out = folder / "out.png"
    out.mkdir()
    (out / "mine").write_text("mine")
    before = state(folder)
    refused(capsys, run(folder, command, option, out), option, out, "is a folder")
    assert state(folder) == before


@pytest.mark.parametrize(("command", "option"), [*STREAMED, *ONLY_FILES, *ONLY_FOLDERS])
def test_nothing_lies_below_a_file(folder, capsys, command, option):
    out = folder / "gt.jsonl" / "out.png"
    before = state(folder)
    refused(capsys, run(folder, command, option, out), option, folder / "gt.jsonl")
    assert state(folder) == before


@pytest.mark.parametrize(("command", "option"), ONLY_FOLDERS)
def test_a_file_is_no_folder(folder, capsys, command, option):
    before = state(folder)
    refused(capsys, run(folder, command, option, folder / "gt.jsonl"), option, "gt.jsonl is not a folder")
    assert state(folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize(("command", "option"), [*STREAMED, *ONLY_FILES, *ONLY_FOLDERS])
def test_a_folder_that_may_not_be_written(folder, capsys, command, option):
    (folder / "closed").mkdir(mode=0o500)
    refused(
        capsys, run(folder, command, option, folder / "closed" / "out.png"), option, "closed may not be written into"
    )


@contextmanager
def pipe(path):
    """A FIFO that has a reader and room for what the commands write here."""
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield end
    finally:
        os.close(end)


def device(path):
    """A null device of our own: a command that replaces its output must not find the machine's."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        path.write_bytes(b"")
    except PermissionError:
        pytest.skip("only root may make a device, and not everywhere")


@pytest.mark.parametrize(("command", "option"), [pair for pair in STREAMED if pair[0] != "ground"])
def test_a_pipe_gets_what_a_file_gets(folder, command, option):
    for name in ("tacos.json", "gt.jsonl", "pred.jsonl", "text.jsonl"):  # few rows: a pipe holds 64 KiB
        text = (folder / name).read_text()
        if name == "tacos.json":
            tacos(folder, sentences=20)
        else:
            write_lines(folder / name, text.splitlines()[:20])

    (folder / "whole").mkdir()
    run(folder, command, option, folder / "whole" / "out")
    inputs = {path.name for path in folder.iterdir()}
    with pipe(folder / "pipe") as end:
        assert run(folder, command, option, folder / "pipe") == 0
        assert os.read(end, 1 << 16) == (folder / "whole" / "out").read_bytes() != b""

    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)
    assert {path.name for path in folder.iterdir()} - inputs == {"pipe"}


@pytest.mark.parametrize(("command", "option"), [pair for pair in STREAMED if pair[0] != "ground"])
def test_a_device_stays(folder, command, option):
    device(folder / "null")
    inputs = {path.name for path in folder.iterdir()}
    assert run(folder, command, option, folder / "null") == 0
    assert stat.S_ISCHR((folder / "null").stat().st_mode)
    assert {path.name for path in folder.iterdir()} - inputs <= {"text.jsonl.media"}


@pytest.mark.parametrize(("command", "option"), ONLY_FILES)
def test_what_must_be_a_file_is_no_pipe(folder, capsys, command, option):
    with pipe(folder / "pipe.png"):
        before = state(folder)
        refused(capsys, run(folder, command, option, folder / "pipe.png"), option, "is no regular file")
        assert state(folder) == before


@pytest.mark.parametrize(("command", "option"), ONLY_FILES)
def test_what_must_be_a_file_is_no_device(folder, capsys, command, option):
    device(folder / "null.png")
    before = state(folder)
    refused(capsys, run(folder, command, option, folder / "null.png"), option, "is no regular file")
    assert state(folder) == before


def test_an_open_file_of_the_process_is_a_stream(folder):
    """What bash makes of `--out >(gzip > x.gz)`."""
    read, write = os.pipe()
    packer = subprocess.Popen(["gzip"], stdin=read, stdout=open(folder / "x.gz", "wb"))
    os.close(read)
    assert run(folder, "evaluate", "--items", f"/dev/fd/{write}") == 0
    os.close(write)
    assert packer.wait() == 0
    assert len(gzip.decompress((folder / "x.gz").read_bytes()).splitlines()) == ITEMS


@pytest.mark.parametrize("into", ["pipe", "file"])
def test_stdout_is_for_the_rows_alone(folder, into):
    # Not `/dev/stdout`, which is the same to us, but could be replaced.
    assert [descriptor(Path(f"/dev/{name}")) for name in ("stdout", "fd/1", "null")] == [1, 1, None]
    command = [sys.executable, "-m", "spacevllm_plugin.cli.main", *map(str, arguments(folder, "convert"))]
    with open(folder / "stdout", "wb") as file:
        stdout = subprocess.PIPE if into == "pipe" else file
        result = subprocess.run([*command, "--out", "/dev/fd/1"], stdout=stdout, stderr=subprocess.PIPE, check=True)

    rows = result.stdout if into == "pipe" else (folder / "stdout").read_bytes()
    assert [json.loads(line)["task"] for line in rows.splitlines()] == ["vtg"] * ITEMS
    assert b"kept" in result.stderr and not (folder / "dataset_info.json").exists()


def test_a_link_stays_and_its_file_is_replaced(folder):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "old").write_text("old")
    (folder / "elsewhere" / "old").chmod(0o604)
    (folder / "link").symlink_to("elsewhere/old")
    (folder / "dangling").symlink_to("elsewhere/deep/new")
    assert run(folder, "evaluate", "--out", folder / "link", "--items", folder / "dangling") == 0
    assert os.readlink(folder / "link") == "elsewhere/old" and os.readlink(folder / "dangling") == "elsewhere/deep/new"
    assert json.loads((folder / "elsewhere" / "old").read_text())["task"] == "rec"
    assert len((folder / "elsewhere" / "deep" / "new").read_text().splitlines()) == ITEMS
    assert {path.name for path in (folder / "elsewhere").rglob("*")} == {"old", "deep", "new"}


def test_permissions(tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(0o604)
    umask = os.umask(0o027)
    try:
        for name in ("old", "new"):
            with replaced(tmp_path / name) as file:
                file.write(b"content")
    finally:
        os.umask(umask)

    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("old", "new")] == [0o604, 0o640]


@contextmanager
def little_room(limit=LIMIT):
    """A disk on which no file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("convert", {"--out": "rows.jsonl"}),
        ("evaluate", {"--out": "scores.json", "--items": "rows.jsonl"}),
        ("check", {"--fix": "rows.jsonl", "--json": "report.json"}),
    ],
)
def test_on_a_full_disk_the_old_files_stay(folder, capsys, command, written):
    for name in (*written.values(), "rows.jsonl.summary.json"):
        (folder / name).write_text("old")

    options = [part for option, name in written.items() for part in (option, folder / name)]
    before = state(folder)
    with little_room():
        code = run(folder, command, *options)

    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("spacevllm-cli")]
    assert code == 1 and f"{folder / 'rows.jsonl'} cannot be written: File too large" in line and "Trace" not in err
    after = state(folder)
    assert {path: after[path] for path in before} == before
    assert {path.name for path in after.keys() - before.keys()} <= {"text.jsonl.media"}


def test_on_a_full_disk_no_picture_is_half_drawn(synthetic_set, tmp_path, capsys):
    row = synthetic_set.rows[0]
    command = ["render", "--data", synthetic_set.folder / "annotations.jsonl", "--out", tmp_path, "--id", row.id]
    out = tmp_path / f"{file_name(row.id)}.png"
    out.write_text("old")
    with little_room(1000):
        assert main([str(part) for part in command]) == 1
        with (
            pytest.raises(OutputError, match=r"x\.mp4 cannot be written: File too large"),
            replaced(tmp_path / "x.mp4") as file,
        ):
            render_video(VideoRef.parse(str(synthetic_set.folder / row.videos[0])), [tube_from_target(row)], file)

    assert capsys.readouterr().err == f"spacevllm-cli render: {out} cannot be written: File too large\n"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(out.name, "old")]


def test_what_ground_finds_is_written_together(tiny_base, synthetic_set, tmp_path, capsys):
    row = synthetic_set.rows[0]
    media = ["--video", synthetic_set.folder / row.videos[0], "--query", row.query, "--arg", "infer_dtype=float32"]
    command = [
        "ground",
        "--model",
        tiny_base("qwen3_vl"),
        *media,
        "--out",
        tmp_path / "pipe",
        "--render",
        tmp_path / "x.png",
    ]
    with pipe(tmp_path / "pipe") as end:
        assert main([str(part) for part in command]) == 0
        assert json.loads(os.read(end, 1 << 16))["status"] in ("ok", "unreadable")

    (tmp_path / "pipe").unlink()
    (tmp_path / "x.png").write_text("old")
    with little_room(1000):
        assert main([str(part) for part in command]) == 1

    assert capsys.readouterr().err.splitlines()[-1].endswith("x.png cannot be written: File too large")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.png", "old")]


def test_on_a_full_disk_no_checkpoint_is_half_written(tmp_path, capsys):
    with little_room():
        assert main(["make-tiny", "qwen3_vl", "--out", str(tmp_path)]) == 1

    assert capsys.readouterr().err.count("spacevllm-cli make-tiny: --out: ") == 1
    assert not list(tmp_path.iterdir())


def test_what_is_appended_on_a_full_disk_can_be_gone_on_with(tmp_path):
    """As `predict` writes, which names its file, keeps its whole lines and goes on from there."""
    lines = [f"{number:0999}" for number in range(30)]
    with little_room(), pytest.raises(OutputError, match="p.jsonl cannot be written: File too large"):
        with appended(tmp_path / "p.jsonl") as file:
            for line in lines:
                append_lines(file, [line])

    there = [line.decode().strip() for _, line in recover(tmp_path / "p.jsonl")]
    assert there == lines[: LIMIT // 1000]
    with appended(tmp_path / "p.jsonl") as file:
        append_lines(file, lines[len(there) :])

    assert (tmp_path / "p.jsonl").read_text().splitlines() == lines


@pytest.mark.parametrize("name", ["rows.jsonl.summary.json", "dataset_info.json"])
def test_rows_without_their_summary_or_entry_are_not_written(folder, capsys, name):
    (folder / name).mkdir()
    (folder / "rows.jsonl").write_text("old")
    before = state(folder)
    refused(capsys, run(folder, "convert", "--out", folder / "rows.jsonl"), name, "is a folder")
    assert state(folder) == before


@pytest.mark.parametrize("options", [("--out", "--items"), ("--items", "--out")])
def test_scores_and_items_come_together_and_are_refused_before_the_work(folder, capsys, options):
    before = state(folder)
    code = run(folder, "evaluate", options[0], folder / "x", options[1], folder / "gt.jsonl" / "y")
    refused(capsys, code, options[1], "gt.jsonl is not a folder")  # nothing printed: nothing scored
    assert state(folder) == before


@pytest.mark.parametrize("kind", ["same", "soft", "dangling", "hard"])
def test_two_outputs_are_two_files(folder, capsys, kind):
    out, other = folder / "x", folder / ("x" if kind == "same" else "y")
    if kind in ("soft", "hard"):
        out.write_text("old")

    if kind == "hard":
        os.link(out, other)
    elif kind != "same":
        other.symlink_to(out)

    before = state(folder)
    code = run(folder, "evaluate", "--out", other, "--items", out)
    refused(capsys, code, f"--out {other} is the file of --items")
    assert code == 2 and state(folder) == before
    code = run(folder, "check", "--json", other, "--fix", out)
    refused(capsys, code, f"--json {other} is the file of --fix")
    assert code == 2 and state(folder) == before


def test_a_file_that_cannot_be_moved_takes_the_others_back(tmp_path):
    (tmp_path / "old").write_text("old")
    with pytest.raises(OutputError, match="late cannot be written: Is a directory"), Outputs() as outputs:
        for name in ("old", "new", "late"):
            outputs.open(tmp_path / name).write(b"content")

        (tmp_path / "late").mkdir()  # somebody else's, meanwhile

    assert {path.name for path in tmp_path.iterdir()} == {"old", "late"}
    assert (tmp_path / "old").read_text() == "old"


def test_outputs_that_were_there_are_replaced_together(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("old")

    with Outputs() as outputs:
        for name in "abc":
            outputs.open(tmp_path / name).write(name.encode())

        assert [(tmp_path / name).read_text() for name in "ab"] == ["old", "old"]
        with pytest.raises(OutputError, match="another output as well"):
            outputs.open(tmp_path / "." / "a")

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "a", "b": "b", "c": "c"}


def test_a_failing_block_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), Outputs() as outputs:
        outputs.open(tmp_path / "a").write(b"a")
        raise KeyError

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [("ground", "--render", "v.mp4"), ("mix", "--out", "mix.yaml"), ("mix", "--out", "part.jsonl")],
)
def test_no_input_is_replaced(folder, capsys, command, option, name):
    (folder / "v.mp4").write_text("video")
    before = state(folder)
    code = run(folder, command, option, folder / name)
    captured = capsys.readouterr().err
    assert code in (1, 2) and captured.count("spacevllm-cli") == 1 and name in captured
    assert state(folder) == before


def test_a_picture_does_not_replace_the_image_it_is_drawn_from(folder, capsys):
    write_lines(folder / "gt.jsonl", [dump_row(rec(id="i"))])
    write_image(folder / "i.png")
    before = state(folder)
    refused(capsys, run(folder, "render", "--out", folder), "i.png is a medium of the rows")
    assert state(folder) == before


def test_a_stage_does_not_read_what_it_removes(folder, capsys):
    """Rows rejected by a first run given to a second one of the same name."""
    assert run(folder, "unistg", "--out", folder / "out.jsonl") == 0
    rejects = folder / "out.jsonl.rejects.jsonl"
    rejects.write_bytes((folder / "annotated.jsonl").read_bytes())
    before = state(folder)
    capsys.readouterr()
    code = main(["unistg", "refine", "--overwrite", "--data", str(rejects), "--out", str(folder / "out.jsonl")])
    refused(capsys, code, rejects, "would be overwritten")
    assert state(folder) == before


def test_starting_a_stage_anew_needs_its_input_and_keeps_links(folder):
    (folder / "elsewhere").mkdir()
    (folder / "out.jsonl").symlink_to("elsewhere/rows")
    command = ["unistg", "refine", "--overwrite", "--out", str(folder / "out.jsonl"), "--data"]
    assert main([*command, str(folder / "annotated.jsonl")]) == 0
    rows = (folder / "elsewhere" / "rows").read_bytes()
    assert rows and main([*command, str(folder / "none.jsonl")]) == 1
    assert (folder / "elsewhere" / "rows").read_bytes() == rows
    assert main([*command, str(folder / "annotated.jsonl")]) == 0
    assert (folder / "out.jsonl").is_symlink() and (folder / "elsewhere" / "rows").read_bytes() == rows
