"""Whatever the raw files hold: rows that can be used and a summary that adds up, or one line and nothing written."""

import contextlib
import gzip
import io
import json
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import write_video
from converting import run_convert
from fuzzing import examples
from hypothesis import given, reject
from hypothesis import strategies as st
from raw_files import encoded, raw_set

from spacevllm_plugin.converters import SOURCES
from spacevllm_plugin.data.schema import parse_row


# Written by `_expanded`: no data of Python's becomes these.
DIGITS, DEEP, OVERFLOW = "@digits@", "@deep@", "@overflow@"
EXPANDED = {DIGITS: b"9" * 5000, DEEP: b"[" * 100_000 + b"]" * 100_000, OVERFLOW: b"1e400"}

NUMBERS = (0, -1, 1, 2, 0.5, True, 2**31, 2**53 + 1, 2**63, 10**18, -(10**18), 10**400, 1e300, -1e300, 1e-300, -0.0)
TEXTS = ("", " ", "x", "v.mp4", "é", "nan", "inf", "9" * 400, "1e400", "<video>", "<|staq|>", "{}", "A", ".", "##")
NAMES = ("../v.mp4", "/etc/passwd", "a/../../v", "a\0b", "a\nb", "C:\\v", "\ud800", "a" * 300, "a/" * 3000, "é" * 200)
extremes = (
    st.sampled_from(
        (*NUMBERS, *TEXTS, *NAMES, float("nan"), float("inf"), None, DIGITS, DEEP, OVERFLOW, "z" * 100_000)
    )
    | st.sampled_from(([], {}, [[]], {"": None}, [0], [1, 2, 3, 4], [None] * 4, {"a": {}}))
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
)


@dataclass
class Outcome:
    code: int
    lines: list[str]
    warned: list[str]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A media folder in which the videos of all sources that probe them are called `v.mp4`."""
    folder = tmp_path_factory.mktemp("media")
    places = ("charades", "didemo", "tacos", "activitynet", "qvhighlights", "st_align", "mvbench/star/Charades_v1_480")
    for place in places:
        (folder / place).mkdir(parents=True)
        write_video(folder / place / "v.mp4", count=20, fps=4)

    return folder


def _places(data, path=()):
    """The way to every value within some data."""
    yield path
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in children:
        yield from _places(value, (*path, key))


def _changed(draw, data):
    """A copy with one value replaced, dropped, repeated or renamed."""
    data = json.loads(json.dumps(data))
    # Not all frames of a tube: half of the choices would be boxes.
    *way, last = (None, *draw(st.sampled_from([path for path in _places(data) if len(path) < 9])))
    if last is None:
        return draw(extremes)

    holder = data
    for key in way[1:]:
        holder = holder[key]

    match draw(st.sampled_from(("replace", "replace", "replace", "drop", "repeat", "rename"))):
        case "drop":
            del holder[last]
        case "repeat" if isinstance(holder, list):
            holder.insert(last, holder[last])
        case "rename" if isinstance(holder, dict):
            name = draw(st.sampled_from((*NAMES, *TEXTS)) | st.text(max_size=4))
            holder[name] = holder.pop(last)
        case _:
            holder[last] = draw(extremes)

    return data


def _expanded(data: bytes) -> bytes:
    for mark, value in EXPANDED.items():
        data = data.replace(f'"{mark}"'.encode(), value)

    return data


def _damaged(draw, data: bytes) -> bytes:
    """The bytes cut, with others among them, in another encoding, or packed."""
    place = draw(st.integers(0, len(data)))
    match draw(
        st.sampled_from(("cut", "insert", "overwrite", "utf-16", "utf-16-le", "latin-1", "mark", "cr", "gzip"))
    ):
        case "cut":
            return data[:place]
        case "insert":
            return data[:place] + draw(st.binary(min_size=1, max_size=6)) + data[place:]
        case "overwrite":
            return data[:place] + draw(st.binary(min_size=1, max_size=3)) + data[place + 3 :]
        case "mark":
            return b"\xef\xbb\xbf" + data
        case "cr":
            return data.replace(b"\n", b"\r")
        case "gzip":
            return gzip.compress(data)
        case encoding:
            return data.decode(errors="replace").encode(encoding, errors="replace")


@st.composite
def raw_sets(draw, source):
    """A set of raw files of which one or two are wrong somewhere: in what they say, or in their bytes."""
    raw = raw_set(source)
    names = st.sampled_from(sorted(raw.files))
    for _ in range(draw(st.integers(1, 2))):
        name = draw(names)
        raw.files[name] = _changed(draw, raw.files[name])

    try:
        files = {name: _expanded(encoded(name, data)) for name, data in raw.files.items()}
    except ValueError:
        reject()

    if draw(st.integers(0, 3)) == 0:
        name = draw(names)
        files[name] = _damaged(draw, files[name])

    if draw(st.integers(0, 15)) == 0:
        del files[draw(names)]

    return raw, files, draw(st.booleans())


def run(source, raw, folder, out, media_dir) -> Outcome:
    options = {**raw.options, **{name: folder / path for name, path in raw.paths.items()}}
    if media_dir is not None:
        options["media_dir"] = media_dir

    said, quiet = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stderr(said):
        warnings.simplefilter("always")
        with contextlib.redirect_stdout(quiet):
            code = run_convert(source, out, **options)

    bars = re.compile(r"B/s\]|\?B/s|^\s*$")
    lines = [line for line in re.split(r"[\r\n]", said.getvalue()) if not bars.search(line)]
    return Outcome(code, lines, [str(warning.message) for warning in caught])


def check_written(out: Path) -> None:
    """The rows can be used, the summary adds up, the index names them."""
    rows = [parse_row(line) for line in out.read_text().splitlines()]
    for row in rows:
        for medium in (*(row.videos or ()), *(row.images or ())):
            assert not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\\]|^/", medium) and ".." not in medium.split("/")
            assert max(len(part.encode()) for part in medium.split("/")) <= 255

    summary = json.loads(Path(f"{out}.summary.json").read_text())
    counts = summary["rows"]
    assert counts["kept"] == len(rows) > 0 and counts["read"] == len(rows) + counts["dropped"]
    assert counts["dropped"] == sum(summary["dropped"].values())
    assert len({row.id for row in rows}) == len(rows)
    assert all(case.isprintable() and len(case) < 400 for case in summary["examples"].values())
    index = json.loads((out.parent / "dataset_info.json").read_text())
    assert index == {summary["dataset"]: {"file_name": "rows.jsonl", "formatting": "spacevllm"}}


@pytest.mark.parametrize("source", SOURCES)
@examples(10)
@given(data=st.data())
def test_rows_and_a_summary_or_one_line(source, media, data):
    raw, files, with_media = data.draw(raw_sets(source))
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "raw", Path(name) / "out/rows.jsonl"
        for path in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(files[path])

        out.parent.mkdir()
        out.write_text("before\n")
        needed = source in ("st-align", "mvbench")
        outcome = run(source, raw, folder, out, media if raw.media_dir and (with_media or needed) else None)
        assert outcome.warned == []
        if outcome.code == 0:
            assert outcome.lines == []
            check_written(out)
        else:
            (line,) = outcome.lines
            assert outcome.code in (1, 2) and line.startswith("spacevllm-cli convert: ") and len(line) < 560
            assert line.isprintable() and "b'" not in line
            assert out.read_text() == "before\n"
            assert {path.name for path in out.parent.iterdir() if not path.name.startswith(".")} == {"rows.jsonl"}


@pytest.mark.parametrize("source", SOURCES)
def test_the_files_are_valid_as_long_as_nothing_is_changed(source, media, tmp_path):
    """Otherwise all of the above might be about files that are refused at once."""
    raw = raw_set(source)
    for path, data in raw.files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(encoded(path, data))

    out = tmp_path / "out/rows.jsonl"
    outcome = run(source, raw, tmp_path, out, media if source in ("st-align", "mvbench") else None)
    assert (outcome.code, outcome.lines, outcome.warned) == (0, [], [])
    check_written(out)
