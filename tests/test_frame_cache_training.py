"""Training reads each row's video once an epoch, and with the frame cache each video once; tokenising decodes nothing."""

from collections import Counter

import pytest
from runs import train, write_data

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.data import video
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.data.video.index_store import recent


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("reads") / "base"
    make_tiny("qwen3_vl", out)
    return out


@pytest.fixture
def reads(monkeypatch):
    """How often each video was decoded."""
    counted, decode = Counter(), video.reader.decode
    monkeypatch.setattr(video.reader, "decode", lambda path, *args: (counted.update([path]), decode(path, *args))[1])
    return counted


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two videos, two rows of each."""
    folder = tmp_path_factory.mktemp("reads") / "data"
    write_set(folder, SynthConfig(num_videos=2, seed=5))
    rows = [row.model_dump(exclude_none=True) for row in read_rows(folder / "annotations.jsonl")]
    videos = sorted({row["videos"][0] for row in rows})
    write_data(folder, [row for name in videos for row in [r for r in rows if r["videos"] == [name]][:2]])
    return folder


OPTIONS = {"dataset": "rows", "num_train_epochs": 2, "per_device_train_batch_size": 2}


def test_each_row_once_an_epoch(base, data, tmp_path, reads):
    # Two rows about one video in a batch would share its decoding.
    log = train(base, data, tmp_path / "out", **{**OPTIONS, "per_device_train_batch_size": 1})
    # Two rows a video, two epochs; one decoding more would be one at tokenising.
    assert sorted(reads.values()) == [4, 4]
    assert len([entry for entry in log if "loss" in entry]) == 8


def test_each_video_once_with_the_cache(base, data, tmp_path, reads):
    plain = train(base, data, tmp_path / "plain", **OPTIONS)
    reads.clear()
    recent.clear()  # as in a new process
    cache = {"frame_cache_dir": str(tmp_path / "cache"), "frame_cache_gb": 0.01}
    first = train(base, data, tmp_path / "first", **OPTIONS, **cache)
    assert sorted(reads.values()) == [1, 1]
    assert len(list((tmp_path / "cache" / "index").glob("*/*.npz"))) == 2
    again = train(base, data, tmp_path / "again", **OPTIONS, **cache)
    assert sorted(reads.values()) == [1, 1]

    def losses(log):
        return [entry["loss"] for entry in log if "loss" in entry]

    assert losses(plain) == losses(first) == losses(again)


def test_unusable_cache_is_one_line(base, data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="frame_cache_dir: .*cannot be used"):
        train(base, data, tmp_path / "out", **OPTIONS, frame_cache_dir=str(tmp_path / "file" / "deeper"))
