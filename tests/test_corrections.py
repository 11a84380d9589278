"""What a user has put right becomes a row that `check` takes and training learns from."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from conftest import write_image, write_video
from hypothesis import given
from hypothesis import strategies as st
from runs import train

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.corrections import _within, append_correction
from spacevllm_plugin.data.output import OutputError
from spacevllm_plugin.data.schema import RowError, read_rows
from spacevllm_plugin.data.tube import interpolate_boxes
from spacevllm_plugin.data.video import MediaError


QUERY = "the red circle that moves"
BOX = (4.0, 5.0, 20.0, 21.0)


@pytest.fixture
def folder(tmp_path):
    write_video(tmp_path / "v.mp4", 12, fps=2)
    write_video(tmp_path / "vfr.mp4", 4, times=[0, 100, 700, 1500])
    write_image(tmp_path / "i.png")
    return tmp_path


def check(file, *options):
    return main(["check", str(file), "--workers", "1", "--decode", *options])


def test_every_kind_of_row_passes_check_and_is_read_back(folder):
    file = folder / "corrections.jsonl"
    made = [
        append_correction(file, folder / "v.mp4", QUERY, (1.0, 4.0), {2: BOX, 6: (14, 5, 30, 21)}),
        append_correction(file, folder / "v.mp4", QUERY, (1.0, 4.0), {}),
        append_correction(file, folder / "v.mp4", QUERY, None, {}),
        append_correction(file, folder / "vfr.mp4", QUERY, (0.1, 1.5), {1: BOX}),
        append_correction(file, folder / "i.png", QUERY, None, {0: BOX}),
        append_correction(file, folder / "i.png", QUERY, None, {}),
        append_correction(file, folder / "v.mp4", QUERY, (1.0, 4.0), {2: BOX}, answer="Seen from 1.0 to 4.0 seconds."),
    ]
    assert [row.task for row in made] == ["stvg", "vtg", "qa", "stvg", "rec", "qa", "stvg"]
    assert list(read_rows(file)) == made and len({row.id for row in made}) == 7
    assert check(file) == 0

    first, _, absent, varying, image, *_, worded = made
    assert (first.videos, image.images) == (["v.mp4"], ["i.png"])
    assert (first.target.span_frames, first.target.frames) == ((2, 8), [2, 6])
    assert (varying.target.span_frames, varying.target.span_seconds) == ((1, 3), (0.1, 1.5))
    assert absent.target is None and absent.messages[1].content == "It is not there."
    assert worded.messages[1].content == "Seen from 1.0 to 4.0 seconds."
    # The question is the one that `ground` and the demo ask.
    assert first.messages[0].content == absent.messages[0].content and QUERY in first.messages[0].content


def test_media_elsewhere_are_written_with_their_whole_path(folder):
    file = folder / "sets" / "mine.jsonl"
    row = append_correction(file, folder / "v.mp4", QUERY, (1.0, 4.0), {3: BOX})
    assert row.videos == [str(folder / "v.mp4")] and check(file) == 0
    index = json.loads((folder / "sets/dataset_info.json").read_text())
    assert index == {"mine": {"file_name": "mine.jsonl", "formatting": "spacevllm"}}


@given(
    keyframes=st.dictionaries(st.integers(0, 60), st.tuples(*[st.floats(0, 100)] * 4), min_size=1, max_size=6),
    start=st.integers(0, 59),
    length=st.integers(1, 60),
)
def test_keyframes_outside_the_span_go_and_the_tube_stays(keyframes, start, length):
    span = (start, start + length)
    inside = _within(keyframes, *span)
    assert inside and all(start <= frame < start + length for frame in inside)
    frames = sorted(keyframes)
    before = interpolate_boxes(frames, [keyframes[frame] for frame in frames], range(*span))
    after = interpolate_boxes(list(inside), list(inside.values()), range(*span))
    assert np.allclose(before, after)


@pytest.mark.parametrize(
    ("media", "query", "span", "keyframes", "error"),
    [
        ("v.mp4", "  ", (1, 4), {3: BOX}, RowError),
        ("v.mp4", "a <video> of it", (1, 4), {3: BOX}, RowError),
        ("v.mp4", "<|staq|>", (1, 4), {3: BOX}, RowError),
        ("v.mp4", "half a pair \ud800", (1, 4), {3: BOX}, RowError),
        ("v.mp4", QUERY, (4, 1), {3: BOX}, RowError),
        ("v.mp4", QUERY, (float("nan"), 4), {3: BOX}, RowError),
        ("v.mp4", QUERY, (1, 4), {3: (20, 5, 4, 21)}, RowError),
        ("v.mp4", QUERY, (1, 4), {3: (float("nan"), 5, 20, 21)}, RowError),
        ("v.mp4", QUERY, (1, 4), {3: (60, 60, 80, 80)}, RowError),
        ("v.mp4", QUERY, None, {3: BOX}, RowError),
        ("i.png", QUERY, None, {3: BOX}, RowError),
        ("absent.mp4", QUERY, (1, 4), {3: BOX}, MediaError),
        ("text.mp4", QUERY, None, {}, MediaError),
    ],
)
def test_what_makes_no_row_leaves_no_trace(folder, media, query, span, keyframes, error):
    (folder / "text.mp4").write_text("no video")
    with pytest.raises(error) as caught:
        append_correction(folder / "out/c.jsonl", folder / media, query, span, keyframes)

    assert "\n" not in str(caught.value) and not (folder / "out").exists()


def test_an_answer_that_says_another_span_is_refused(folder):
    with pytest.raises(RowError, match="the answer says"):
        append_correction(folder / "c.jsonl", folder / "v.mp4", QUERY, (1, 4), {3: BOX}, "From 2.0 to 3.0 seconds.")


@pytest.mark.parametrize(
    "index",
    [
        '{"c": {"file_name": "other.jsonl"}}',
        '{"mine": {"file_name": "c.jsonl", "formatting": "alpaca"}}',
        "[1]",
        '{"c": ',
        '{"a": ' + "[" * 100_000,
    ],
)
def test_an_index_that_says_otherwise_is_left_alone(folder, index):
    (folder / "dataset_info.json").write_text(index)
    with pytest.raises(OutputError, match="dataset_info.json"):
        append_correction(folder / "c.jsonl", folder / "v.mp4", QUERY, (1, 4), {3: BOX})

    assert (folder / "dataset_info.json").read_text() == index and not (folder / "c.jsonl").exists()


def test_other_entries_and_a_line_without_its_end_stay(folder):
    index = {"théirs": {"file_name": "x.json"}, "named": {"file_name": "c.jsonl", "formatting": "spacevllm"}}
    (folder / "dataset_info.json").write_text(json.dumps(index))
    append_correction(folder / "c.jsonl", folder / "v.mp4", QUERY, (1, 4), {3: BOX})
    assert json.loads((folder / "dataset_info.json").read_text()) == index

    text = (folder / "c.jsonl").read_text()
    (folder / "c.jsonl").write_text(text.rstrip("\n"))
    append_correction(folder / "c.jsonl", folder / "v.mp4", QUERY, (1, 4), {3: BOX})
    append_correction(folder / "d.jsonl", folder / "v.mp4", QUERY, (1, 4), {3: BOX})
    assert len(list(read_rows(folder / "c.jsonl"))) == 2
    assert list(json.loads((folder / "dataset_info.json").read_text())) == ["théirs", "named", "d"]


def _append_some(file: Path, media: Path) -> None:
    for frame in range(2, 7):
        append_correction(file, media, QUERY, (1.0, 4.0), {frame: BOX})


def test_several_writers_lose_nothing(folder):
    file = folder / "corrections.jsonl"
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        list(pool.map(_append_some, [file] * 6, [folder / "v.mp4"] * 6))

    rows = list(read_rows(file))
    assert len({row.id for row in rows}) == 30
    assert sorted(row.target.frames[0] for row in rows) == sorted([*range(2, 7)] * 6)
    assert check(file) == 0


def test_llamafactory_trains_on_them(folder, tiny_base):
    file = folder / "corrections.jsonl"
    append_correction(file, folder / "v.mp4", QUERY, (1.0, 4.0), {2: BOX, 6: (14, 5, 30, 21)})
    append_correction(file, folder / "v.mp4", "the blue square", None, {})
    append_correction(file, folder / "i.png", QUERY, None, {0: BOX})
    log = train(
        tiny_base("qwen3_vl"),
        folder,
        folder / "out",
        dataset="corrections",
        max_steps=2,
        per_device_train_batch_size=3,
    )
    losses = [step for step in log if "loss_l1" in step]
    assert len(losses) == 2 and all(step["loss_l1"] > 0 and step["loss_giou"] > 0 for step in losses)
