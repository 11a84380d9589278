"""Rows that were tokenised once are not tokenised again, until something that they depend on changes."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from conftest import changed, write_image, write_video
from runs import tokenise, write_data

from spacevllm_plugin.integration.bad_rows import BadRowsError
from spacevllm_plugin.integration.dataset import GroundingEncoding


@pytest.fixture
def data(synthetic_set, tmp_path):
    """Two rows of videos and one of an image, by files of their own."""
    folder = tmp_path / "data"
    rows = [synthetic_set.of("stvg", 0), synthetic_set.of("vtg", 1), synthetic_set.of("rec", 0)]
    for row in rows:
        for path in (*(row.videos or ()), *(row.images or ())):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(synthetic_set.folder / path, folder / path)

    write_data(folder, [row.model_dump(exclude_none=True) for row in rows])
    return folder


@pytest.fixture
def start(tiny_base, tmp_path, monkeypatch):
    """`start(folder, **options)`: how many rows a run's start tokenised, and the rows."""
    encode = GroundingEncoding._encode
    calls = []

    def counted(self, *args):
        calls.append(args)
        return encode(self, *args)

    monkeypatch.setattr(GroundingEncoding, "_encode", counted)

    def run(folder, **options):
        calls.clear()
        common = {"dataset": "rows", "cache_dir": str(tmp_path / "cache"), "overwrite_cache": False}
        found = tokenise(tiny_base("qwen3_vl"), folder, tmp_path / "out", **{**common, **options})
        return len(calls), found["train_dataset"]

    return run


def test_second_start_tokenises_nothing(data, start):
    count, first = start(data)
    assert count == 3
    count, again = start(data, preprocessing_num_workers=1, logging_steps=7)
    assert count == 0
    assert all(again[name] == first[name] for name in ("input_ids", "labels", "videos", "images", "annotation"))
    assert start(data, overwrite_cache=True)[0] == 3


def test_what_the_tokens_depend_on_counts(data, start):
    start(data)
    video, image = sorted((data / "videos").iterdir())[0], next((data / "images").iterdir())
    os.utime(video)
    assert start(data)[0] == 3
    write_image(image, number=5)
    assert start(data)[0] == 3
    for option in (
        {"frame_sampling": "fps"},
        {"train_on_prompt": True},
        {"on_mismatch": "trust"},
        {"video_maxlen": 5},
    ):
        assert start(data, **option)[0] == 3
        assert start(data, **option)[0] == 0

    assert start(data)[0] == 0
    rows = [json.loads(line) for line in (data / "rows.jsonl").read_text().splitlines()]
    write_data(data, rows[:2])
    assert start(data)[0] == 2


def test_mixtures_and_splits_are_kept_too(data, start):
    (data / "words.json").write_text(
        json.dumps([{"instruction": f"Say {i}.", "input": "", "output": f"{i}"} for i in range(5)])
    )
    rows = [json.loads(line) for line in (data / "rows.jsonl").read_text().splitlines()]
    write_data(data, rows, words={"file_name": "words.json"})
    options = {"dataset": "rows,words", "mix_strategy": "interleave_over", "interleave_probs": "0.5,0.5"}
    options |= {"val_size": 2, "grounding_metrics": False}
    count, first = start(data, **options)
    assert count == len(first) + 2
    count, again = start(data, **options)
    assert count == 0 and again["input_ids"] == first["input_ids"]


def test_another_tokenizer_counts(data, start, tiny_base, tmp_path):
    from transformers import AutoTokenizer

    start(data)
    other = tmp_path / "other"
    shutil.copytree(tiny_base("qwen3_vl"), other)
    assert start(data, model_name_or_path=str(other))[0] == 0
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["Where"])
    tokenizer.save_pretrained(other)
    assert start(data, model_name_or_path=str(other))[0] == 3


def test_media_that_turn_up_are_found(data, start, tmp_path):
    """Also in another folder than the one they were missing from."""
    rows = [json.loads(line) for line in (data / "rows.jsonl").read_text().splitlines()]
    write_data(data, [*rows, changed(rows[0], id="late", videos=["late.mp4"])])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for _ in range(2):
        with pytest.raises(BadRowsError, match="id late.*late.mp4: No such file"):
            start(data, media_dir=str(elsewhere))

    write_video(data / "late.mp4", rows[0]["media"]["num_frames"], fps=int(rows[0]["media"]["fps"]))
    _, table = start(data, media_dir=str(elsewhere))
    assert table[-1]["videos"] == [str(data / "late.mp4")]
    shutil.move(data / "late.mp4", elsewhere)
    _, table = start(data, media_dir=str(elsewhere))
    assert table[-1]["videos"] == [str(elsewhere / "late.mp4")]


NODE = """
import json, sys
from pathlib import Path
from runs import tokenise
from spacevllm_plugin.integration.dataset import GroundingEncoding

encode, calls = GroundingEncoding._encode, []
GroundingEncoding._encode = lambda self, *args: calls.append(1) or encode(self, *args)
model, data, out, options = sys.argv[1:]
found = tokenise(Path(model), Path(data), Path(out), **json.loads(options))
print("tokenised", len(calls), "of", len(found["train_dataset"]))
"""


def test_nodes_on_a_shared_file_system_tokenise_once(data, tiny_base, tmp_path):
    """Two nodes of one process each; even where the cache is not trusted, it holds what the first has just written."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    options = {"dataset": "rows", "cache_dir": str(tmp_path / "cache"), "data_shared_file_system": True}
    command = [sys.executable, "-c", NODE, str(tiny_base("qwen3_vl")), str(data), str(tmp_path / "out")]
    env = {**os.environ, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    env |= {"MASTER_PORT": str(port), "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen([*command, json.dumps(options)], env={**env, "RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    said = [node.communicate()[0].splitlines()[-1] for node in nodes]
    assert said == ["tokenised 3 of 3", "tokenised 0 of 3"]
