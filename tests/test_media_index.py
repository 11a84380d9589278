"""The media index: each video is opened once, by whichever of check, convert and tokenising comes first."""

import json
import os
import pickle
import sqlite3
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from conftest import write_video
from converting import converted
from runs import tokenise, write_data

from spacevllm_plugin.backbones import prompter
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.media_index import MediaIndex, MediaIndexError, MediaIndexWriter, survey
from spacevllm_plugin.data.video import VideoRef, identity, index_store, probe, read
from spacevllm_plugin.data.video.index_store import index_of, recent


VARYING = [0, 100, 700, 1500]


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """How often each video was looked at since the last call, by this process and those that it has forked."""
    log, make_index = tmp_path / "opened.log", index_store.make_index

    def counted(path):
        with open(log, "a", errors="surrogateescape") as file:
            file.write(f"{os.path.basename(path)}\n")

        return make_index(path)

    def count():
        recent.clear()  # as in a new process
        lines = log.read_text(errors="surrogateescape").split() if log.exists() else []
        log.write_text("")
        return Counter(lines)

    monkeypatch.setattr(index_store, "make_index", counted)
    recent.clear()
    return count


@pytest.fixture
def data(synthetic_set, tmp_path):
    """Three videos, five rows about each, one after the other: of neighbouring rows none are about the same."""
    rows = [row.model_dump(exclude_none=True) for row in synthetic_set.rows if row.task == "stvg"]
    by_video = {row["videos"][0]: row for row in rows}
    assert len(by_video) == 3
    for video in by_video:
        (tmp_path / video).parent.mkdir(exist_ok=True)
        (tmp_path / video).write_bytes((synthetic_set.folder / video).read_bytes())

    return write_data(tmp_path, [{**row, "id": f"{row['id']}-{i}"} for i in range(5) for row in by_video.values()])


@pytest.fixture
def start(tiny_base, data, tmp_path):
    def run(**options):
        return tokenise(tiny_base("qwen3_vl"), data, tmp_path / "out", dataset="rows", **options)["train_dataset"]

    return run


def contents(table):
    return str(table[:])  # boxes that are not known are NaN, which equal nothing


def videos(data):
    return sorted((data / "videos").iterdir())


def test_what_is_kept_is_what_was_found(tmp_path, opened):
    paths = [write_video(tmp_path / "even.mp4", 5), write_video(tmp_path / "varying.mp4", 4, times=VARYING)]
    index = MediaIndex.at(tmp_path / "new" / "media.index")
    assert [index.load(identity(path)) for path in paths] == [None, None]
    with MediaIndexWriter(index) as shelf:
        found = [index_of(path, shelf) for path in paths]

    assert opened() == {"even.mp4": 1, "varying.mp4": 1}
    for path, first in zip(paths, found):
        again = index_of(path, index)
        assert again is not first and [again.pts(i) for i in range(4)] == [first.pts(i) for i in range(4)]
        assert (again.start, again.tick, again.whole, again.portable) == (
            first.start,
            first.tick,
            first.whole,
            first.portable,
        )
        assert again.info.timeline.num_frames == first.info.timeline.num_frames
        assert (again.info.width, again.info.height) == (first.info.width, first.info.height)

    assert np.array_equal(index_of(paths[1], index).info.timeline.timestamps, found[1].info.timeline.timestamps)
    ref = VideoRef(paths[1])
    assert [image.tobytes() for image in read(ref, [3, 0])] and opened() == {}

    # Of a file that has changed it is found out anew, and kept in place of the old one.
    write_video(tmp_path / "even.mp4", 7)
    with MediaIndexWriter(index) as shelf:
        assert probe(VideoRef(paths[0]), shelf).timeline.num_frames == 7

    assert opened() == {"even.mp4": 1}
    assert probe(VideoRef(paths[0]), index).timeline.num_frames == 7 and opened() == {}


def test_who_only_reads_writes_nothing_and_goes_anywhere(tmp_path, opened):
    path = write_video(tmp_path / "a.mp4", 5)
    index = MediaIndex.at(tmp_path / "media.index")
    assert index_of(path, index) and not os.path.exists(index.file)
    with MediaIndexWriter(index):
        pass

    recent.clear()
    assert index_of(path, pickle.loads(pickle.dumps(index))) and index.load(identity(path)) is None
    assert opened() == {"a.mp4": 2}


def test_names_of_any_bytes(tmp_path, opened):
    path = os.path.join(tmp_path, os.fsdecode(b"\xff.mp4"))
    os.rename(write_video(tmp_path / "a.mp4", 2), path)
    index = MediaIndex.at(tmp_path / "media.index")
    with MediaIndexWriter(index) as shelf:
        list(survey([path], shelf, 1))

    assert index.load(identity(path)).info.timeline.num_frames == 2


def test_another_file_is_never_written_to(tmp_path):
    text, database = tmp_path / "notes.txt", tmp_path / "some.db"
    text.write_text("mine")
    with sqlite3.connect(database) as other:
        other.execute("CREATE TABLE videos (path TEXT)")

    before = database.read_bytes()
    for file in (text, database):
        with pytest.raises(MediaIndexError, match=f"{file.name} is some other file: remove it, or name another one"):
            MediaIndex.at(file)

    with pytest.raises(MediaIndexError, match="is a folder"):
        MediaIndex.at(tmp_path)

    assert text.read_text() == "mine" and database.read_bytes() == before


def test_a_damaged_index_costs_time_only(tmp_path, opened):
    path = write_video(tmp_path / "a.mp4", 5)
    index = MediaIndex.at(tmp_path / "media.index")
    with MediaIndexWriter(index) as shelf:
        index_of(path, shelf)

    damaged = bytearray((tmp_path / "media.index").read_bytes())
    damaged[100:] = bytes(len(damaged) - 100)
    (tmp_path / "media.index").write_bytes(damaged)
    recent.clear()
    with pytest.warns(RuntimeWarning, match="media index .*media.index"):
        assert index_of(path, index).info.timeline.num_frames == 5


def test_a_killed_writer_leaves_what_was_whole(tmp_path, opened):
    """Killed in its second transaction."""
    paths = [write_video(tmp_path / f"{name}.mp4", 2) for name in "ab"]
    index = MediaIndex.at(tmp_path / "media.index")
    code = f"""
import os, sqlite3
from spacevllm_plugin.data import media_index
from spacevllm_plugin.data.video.index_store import index_of
media_index.ENTRIES_AT_ONCE = 1
writer = media_index.MediaIndexWriter(media_index.MediaIndex({index.file!r}))
index_of({paths[0]!r}, writer)
connect = sqlite3.connect
class Dying(sqlite3.Connection):
    def executemany(self, *args):
        super().executemany(*args)
        os.kill(os.getpid(), 9)
sqlite3.connect = lambda *args, **kwargs: connect(*args, **kwargs, factory=Dying)
index_of({paths[1]!r}, writer)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert index.load(identity(paths[0])) and index.load(identity(paths[1])) is None
    with MediaIndexWriter(index) as shelf:
        list(survey(paths, shelf, 2))

    assert index.load(identity(paths[1])) and opened() == {"b.mp4": 1}


def test_tokenising_opens_each_video_once(start, data, opened, tmp_path):
    """In three processes that are forked, with rows of each video in all of them."""
    once = {path.name: 1 for path in videos(data)}
    plain = start(preprocessing_num_workers=3)
    assert len(plain) == 15 and opened() == once

    options = {"media_index": str(tmp_path / "media.index"), "preprocessing_num_workers": 3}
    first = start(**options)
    assert contents(first) == contents(plain) and opened() == once
    again = start(**options)
    assert contents(again) == contents(plain) and opened() == {}

    os.utime(videos(data)[1])
    start(**options)
    assert opened() == {videos(data)[1].name: 1}
    start(**options)
    assert opened() == {}


def test_rows_from_the_cache_open_nothing(start, opened, tmp_path):
    options = {"overwrite_cache": False, "cache_dir": str(tmp_path / "cache")}
    start(**options, preprocessing_num_workers=2)
    assert sum(opened().values()) == 3
    start(**options, preprocessing_num_workers=2)
    assert opened() == {}


def test_more_videos_than_memory_holds(start, data, opened, tmp_path, monkeypatch, caplog):
    """Without an index nothing is looked up for nothing, and somebody says so; with one each is opened once all the same."""
    monkeypatch.setattr("spacevllm_plugin.integration.survey.MEMORY", 2 * index_store.OVERHEAD)
    monkeypatch.setattr(index_store, "MEMORY", 2 * index_store.OVERHEAD)
    start(media_index=str(tmp_path / "media.index"), preprocessing_num_workers=2)
    assert opened() == {path.name: 1 for path in videos(data)}
    start(preprocessing_num_workers=2)
    assert max(opened().values()) > 1


def test_check_and_tokenising_share_it(start, data, opened, tmp_path):
    index, report = tmp_path / "media.index", tmp_path / "report.json"

    def check(*options):
        # Its workers are spawned, what they open is counted by itself.
        command = ["check", str(data / "rows.jsonl"), "--json", str(report), "--workers", "1", *options]
        assert main([*command, "--media-index", str(index)]) == 0
        return json.loads(report.read_text())["media"]

    assert check() == {"files": 3, "examined": 3, "remembered": 0, "unusable": 0}
    start(media_index=str(index))
    assert opened() == {}

    index.unlink()
    # The memory of an earlier check does not have all that the index wants.
    assert check()["examined"] == 3 and check()["examined"] == 0
    os.remove(tmp_path / "rows.jsonl.media")
    assert check() == {"files": 3, "examined": 0, "remembered": 3, "unusable": 0}
    assert check("--decode")["examined"] == 3 and check("--decode")["examined"] == 0

    index.unlink()
    start(media_index=str(index))
    os.remove(tmp_path / "rows.jsonl.media")
    assert check()["examined"] == 0


def test_convert_writes_it(tmp_path, opened):
    folder = tmp_path / "media" / "charades"
    folder.mkdir(parents=True)
    video = write_video(folder / "3MSZA.mp4", 8)
    (tmp_path / "charades_sta_test.txt").write_text("3MSZA 0.5 1.0##a person sits.\n3MSZA 1.0 1.5##a person stands.\n")
    options = {"annotations": tmp_path / "charades_sta_test.txt", "split": "test", "media_dir": tmp_path / "media"}
    options["media_index"] = tmp_path / "media.index"
    first = converted("charades-sta", tmp_path / "a.jsonl", **options)
    assert opened() == {"3MSZA.mp4": 1} and MediaIndex.at(tmp_path / "media.index").load(identity(video))
    assert converted("charades-sta", tmp_path / "b.jsonl", **options).rows == first.rows and opened() == {}


def test_an_engine_reads_it(make_engine, tmp_path, opened):
    path = write_video(tmp_path / "a.mp4", 5)
    index = MediaIndex.at(tmp_path / "media.index")
    with MediaIndexWriter(index) as shelf:
        index_of(path, shelf)

    opened()
    engine = make_engine("qwen3_vl", media_index=index.file)
    _, (plan,) = engine.prompter.plan([], [path])
    assert len(engine.prompter.pictures(plan)) == len(plan.shown) and opened() == {}


def test_an_unusable_file_is_one_line(start, data, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MediaIndexError, match="notes.txt is some other file"):
        start(media_index=str(tmp_path / "notes.txt"))

    assert main(["check", str(data / "rows.jsonl"), "--media-index", str(tmp_path / "notes.txt")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "notes.txt is some other file" in line


def test_only_videos_of_rows_that_are_tokenised_are_opened(start, data, opened):
    assert len(start(max_samples=1)) == 1
    assert sum(opened().values()) == 1


def test_a_row_is_planned_once(start, monkeypatch):
    planned, plan_video = [], prompter.plan_video
    monkeypatch.setattr(prompter, "plan_video", lambda *args: planned.append(args) or plan_video(*args))
    assert len(start()) == len(planned) == 15
