"""`spacevllm-cli evaluate` on files of any content: figures, or one line; never a traceback, a warning or half a file."""

import copy
import io
import json
import math
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.limits import MOST_FRAMES
from spacevllm_plugin.evaluation.protocols import PROTOCOLS


FRAMES, WIDTH, HEIGHT = 30, 100, 50
LONGEST_LINE, LONG = 500, 600
TASKS = [(task, name) for name, tasks in PROTOCOLS.items() for task in tasks]

DEEP = "DEEP"  # `json` cannot write what it cannot read: `encoded` does
EXTREMES = [
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e-320, 1e200, -1e200, 1e308, -1e308, math.nan, math.inf, -math.inf),
    *(MOST_FRAMES, MOST_FRAMES + 1, 10**12, 2**63 - 1, 2**63, -(2**63) - 1, 10**18, 10**400, -(10**400)),
    *("", " ", "a", "0", "all", "\ud800", "\0", "line\nbreak", "\u2028\x1b[2J", "x" * LONG, "é" * LONG),
    *([], {}, [[]], [1, 2], [None], {"a": 1}, ["x" * LONG], {"x" * LONG: 1}, DEEP),
]
extremes = st.sampled_from(EXTREMES).map(copy.deepcopy)
floats = st.floats(width=64) | st.sampled_from([0.0, 10.0, 1e200, -1e200, 1e308, -1e308])
frames = st.integers(-5, FRAMES + 5) | st.sampled_from([-MOST_FRAMES, MOST_FRAMES])
sides = st.integers(0, 8)


@st.composite
def true_boxes(draw):
    x, y = draw(sides), draw(sides)
    return [x, y, x + 1 + draw(sides), y + 1 + draw(sides)]


@st.composite
def true_spans(draw):
    start = draw(st.integers(0, FRAMES - 1))
    return [start, draw(st.integers(start + 1, FRAMES))]


@st.composite
def rows(draw, task, row_id):
    """An annotation row without a fault."""
    row = {
        "id": draw(st.sampled_from(["", "hcstvg1/", "vidstg/"])) + row_id,
        "task": task,
        "group": draw(st.sampled_from([None, "declarative", "all", "g|`\n"])),
        "query": "who?",
        "messages": [
            {"role": "user", "content": f"<{'image' if task == 'rec' else 'video'}>who? A. one B. two"},
            {"role": "assistant", "content": draw(st.sampled_from(["A", "B. two"]))},
        ],
        "media": {"width": WIDTH, "height": HEIGHT},
        "tags": draw(st.sampled_from([None, {"kind": "x"}, {"n": ""}])),
    }
    if task == "rec":
        row |= {"images": ["i.png"], "target": {"frames": [0], "boxes": [draw(true_boxes())]}}
        return row

    fps = draw(st.sampled_from([10, 29.97, 2]))
    row |= {"videos": [draw(st.sampled_from(["v.mp4", "10__Gvp-cj3bmIY.mp4"]))]}
    row["media"] |= {"fps": fps, "num_frames": FRAMES, "clip": draw(st.sampled_from([None, [0, FRAMES]]))}
    if task == "qa":
        return row

    start, end = draw(true_spans())
    seconds = [start / fps, end / fps]
    row["target"] = {"span_frames": [start, end], "span_seconds": seconds}
    if task == "vtg":
        row["target"]["windows_seconds"] = draw(st.sampled_from([None, [seconds, [0, 0.5]]]))
    else:
        known = sorted(draw(st.sets(st.integers(0, FRAMES - 1), min_size=1, max_size=4)))
        row["target"] |= {"frames": known, "boxes": [draw(true_boxes()) for _ in known]}

    return row


@st.composite
def answers(draw, row):
    """A prediction row with boxes and spans of any size."""
    known = [0] if row["task"] == "rec" else sorted(draw(st.sets(frames, min_size=1, max_size=4)))
    seconds = st.lists(floats, min_size=2, max_size=2)
    return {
        "id": row["id"],
        "text": draw(st.sampled_from(["A", "(B)", "", "x" * LONG])),
        "status": draw(st.sampled_from(["ok"] * 4 + ["unreadable", "failed"])),
        "error": draw(st.sampled_from([None, "no\nvideo", "e" * LONG])),
        "span_seconds": draw(st.none() | seconds),
        "span_frames": draw(st.none() | true_spans() | st.lists(frames, min_size=2, max_size=2)),
        "frames": known,
        "boxes": [draw(true_boxes() | st.lists(floats, min_size=4, max_size=4)) for _ in known],
        "windows_seconds": draw(st.none() | st.lists(seconds, max_size=12)),
    }


def places(value, path=()):
    """The path of everything inside a row."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


@st.composite
def spoiled(draw, row):
    """A row with one or two things in it replaced, lost or added."""
    row = copy.deepcopy(row)
    for _ in range(draw(st.integers(1, 2))):
        found = list(places(row))
        if not found:
            return draw(extremes)

        *parents, last = draw(st.sampled_from(found))
        holder = row
        for parent in parents:
            holder = holder[parent]

        how = draw(st.sampled_from(["replace", "replace", "lose", "add"]))
        if how == "replace":
            holder[last] = draw(extremes)
        elif how == "lose":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(["more", "x" * LONG, "id", "\n"]))] = draw(extremes)
        else:
            holder.append(draw(extremes))

    return row


@st.composite
def encoded(draw, row):
    """A row as a line; nested as deep as no reader goes where it says so."""
    text = json.dumps(row, ensure_ascii=draw(st.booleans()))
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).encode(errors="surrogatepass")


@st.composite
def files(draw, lines):
    """The bytes of a file of these rows, some of them no longer what they were."""
    lines = [draw(encoded(draw(spoiled(line)) if draw(st.integers(0, 9)) == 0 else line)) for line in lines]
    content = b"\n".join(lines) + draw(st.sampled_from([b"\n", b"", b"\r\n", b"\n\n  \n"]))
    how = draw(st.sampled_from(["whole"] * 30 + ["marked", "cut", "bytes", "twice", "utf-16", "latin-1", "empty"]))
    place = draw(st.integers(0, len(content)))
    if how == "marked":
        return b"\xef\xbb\xbf" + content

    if how == "cut":
        return content[:place]

    if how == "bytes":
        return content[:place] + draw(st.binary(max_size=4)) + content[place:]

    if how == "twice":
        return content + b"\n" + content

    if how in ("utf-16", "latin-1"):
        return content.decode(errors="replace").encode(how, errors="replace")

    return b"" if how == "empty" else content


@st.composite
def runs(draw):
    """Task, protocol, options and the two files of one command."""
    task, protocol = draw(st.sampled_from(TASKS))
    truths = [draw(rows(task if i or draw(st.booleans()) else "qa", str(i))) for i in range(draw(st.integers(1, 3)))]
    predicted = [draw(answers(row)) for row in truths if draw(st.integers(0, 7))]
    options = ["--fill", draw(st.sampled_from(["linear", "none"])), "--ci", draw(st.sampled_from(["0", "3"]))]
    if task == "stvg":
        options += ["--gt-end-shift", draw(st.sampled_from(["0", "0", "-1", "1", "-1000", "1000"]))]

    return [task, "--protocol", protocol, *options], draw(files(truths)), draw(files(predicted))


def evaluated(folder: Path, arguments, truth: bytes, predicted: bytes):
    """Exit code, what was printed, and what was written, of a command in whose way every warning is an error."""
    (folder / "g.jsonl").write_bytes(truth)
    (folder / "p.jsonl").write_bytes(predicted)
    written = folder / "scores.json", folder / "items.jsonl"
    command = ["evaluate", *arguments, "--gt", str(folder / "g.jsonl"), "--pred", str(folder / "p.jsonl")]
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("error")
        code = main([*command, "--out", str(written[0]), "--items", str(written[1])])

    out.flush()
    return code, out.buffer.getvalue().decode(), err.getvalue(), [path for path in written if path.exists()]


def check(folder, arguments, truth, predicted):
    code, out, err, written = evaluated(folder, arguments, truth, predicted)
    lines = err.split("\n")[:-1]
    assert all(len(line) <= LONGEST_LINE and line.isprintable() for line in lines), err
    if code:
        assert code in (1, 2) and out == "" and not written
        assert len(lines) == 1 and lines[0].startswith("spacevllm-cli evaluate: "), err
        return

    assert all(line.startswith("warning: ") for line in lines), err
    assert all(len(line) <= LONGEST_LINE for line in out.split("\n"))
    report = json.loads(written[0].read_text(), parse_constant=pytest.fail)
    items = [json.loads(line, parse_constant=pytest.fail) for line in written[1].read_text().split("\n")[:-1]]
    assert sum(report["counts"].values()) == len(items) > 0
    for groups in (report["groups"], *report.get("breakdown", {}).values()):
        for figures in groups.values():
            check_figures(figures)

    for item in items:
        values = [value for name, value in item.items() if name not in ("id", "group", "error")]
        assert all(value is None or -1 - 1e-9 <= value <= 1 + 1e-9 for value in values)


def check_figures(figures):
    assert 0 <= figures["n"]
    for name, value in figures.items():
        if value is None:
            assert "error" in figures or name in figures["nulls"]
        elif name == "ci":
            assert all(-1e-9 <= low <= high <= 1 + 1e-9 for low, high in value.values())
        elif name not in ("n", "error", "nulls"):
            assert -1e-9 <= value <= 1 + 1e-9


@examples(120)
@given(run=runs())
def test_any_files(run):
    with TemporaryDirectory() as folder:
        check(Path(folder), *run)


@examples(80)
@given(data=st.data(), task=st.sampled_from(TASKS))
def test_any_line(data, task):
    """One row, always spoiled, so that the errors of every field are met."""
    row = data.draw(rows(task[0], "0"))
    answer = data.draw(answers(row))
    side = data.draw(st.booleans())
    truth, predicted = (data.draw(spoiled(row)), answer) if side else (row, data.draw(spoiled(answer)))
    with TemporaryDirectory() as folder:
        arguments = [task[0], "--protocol", task[1]]
        check(Path(folder), arguments, data.draw(encoded(truth)), data.draw(encoded(predicted)))
