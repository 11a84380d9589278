"""Rows about one video: together in `predict`, whose file keeps its promises, in `ground`, and in evaluations."""

import json
import random
from contextlib import contextmanager

import pytest
import torch
from conftest import prompt

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import PredictionRow, dump_row, read_rows
from spacevllm_plugin.inference.batches import LOOK_AHEAD, MOST_TOGETHER, media_batches, media_of
from spacevllm_plugin.inference.grounding import ground_batch
from spacevllm_plugin.inference.predictor import predict_rows, sort_predictions


TOKENS = 4


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine("qwen3_vl", video_maxlen=6)


@pytest.fixture(scope="module")
def rows(synthetic_set):
    """Of all tasks and videos, in an order in which hardly two neighbours show the same."""
    rows = list(synthetic_set.rows)
    random.Random(0).shuffle(rows)
    return rows


@contextmanager
def counted_tower(engine):
    """Media of each call of the vision tower."""
    calls = []
    handle = engine.model.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    yield calls
    handle.remove()


# Batches.


def cut(values, size):
    return list(media_batches(values, size, lambda value: value[0] if value else None))


def test_rows_that_share_nothing_are_cut_as_ever():
    apart = [(str(number), number) for number in range(20)]
    assert cut(apart, 8) == [apart[:8], apart[8:16], apart[16:]]
    assert cut([None] * 5, 2) == [[None] * 2, [None] * 2, [None]]
    assert cut([], 2) == []


def test_rows_that_share_are_together_and_neighbours_keep_their_order():
    neighbours = [(video, number) for video in "abc" for number in range(3)]
    assert cut(neighbours, 4) == [neighbours[:6], neighbours[6:]]
    assert cut(neighbours, 1) == [neighbours[:3], neighbours[3:6], neighbours[6:]]
    mixed = [neighbours[place] for place in (0, 3, 6, 1, 4, 7, 2, 5, 8)]
    assert cut(mixed, 4) == cut(neighbours, 4)


def test_batches_have_a_limit_and_the_memory_too():
    many = [("a", number) for number in range(2 * MOST_TOGETHER + 1)]
    assert list(map(len, cut(many, LOOK_AHEAD))) == [len(many)]
    assert list(map(len, cut(many, 1))) == [MOST_TOGETHER, MOST_TOGETHER, 1]
    taken = []
    batches = media_batches((taken.append(number) or number for number in range(10**6)), 2, lambda number: number)
    assert next(batches) == [0, 1] and len(taken) == 2 * LOOK_AHEAD


def test_what_a_row_shows(synthetic_set):
    video, image = synthetic_set.of("stvg"), synthetic_set.of("rec")
    clip = video.model_copy(update={"media": video.media.model_copy(update={"clip": (0, 4)})})
    text = synthetic_set.of("qa").model_copy(update={"videos": None, "images": None})
    assert media_of(text) is None and len({media_of(video), media_of(clip), media_of(image)}) == 3
    assert media_of(video.model_copy(update={"id": "another", "task": "vtg"})) == media_of(video)


# Predict.


def predict(engine, rows, folder, out, size=4, **more):
    return predict_rows(engine, rows, folder, out, size, TOKENS, **more)


def by_id(*files):
    return {prediction.id: prediction for file in files for prediction in read_rows(file, PredictionRow)}


def test_each_video_is_read_once_and_all_is_answered_as_row_by_row(engine, rows, synthetic_set, tmp_path, monkeypatch):
    with counted_tower(engine) as calls:
        predict(engine, rows, synthetic_set.folder, tmp_path / "shared.jsonl")

    media = {media_of(row) for row in rows}
    assert sum(calls) == len(media) < len(rows) / 2
    room = type(engine.model)
    monkeypatch.setattr(room, "shares_prefixes", False)
    monkeypatch.setattr(room, "visual_inputs", [name for name in room.visual_inputs if name != "media"])
    with counted_tower(engine) as calls:
        predict(engine, rows, synthetic_set.folder, tmp_path / "apart.jsonl")

    assert sum(calls) == len(rows)
    shared, apart = by_id(tmp_path / "shared.jsonl"), by_id(tmp_path / "apart.jsonl")
    assert shared.keys() == apart.keys() == {row.id for row in rows}
    for row_id, expected in apart.items():
        found = shared[row_id]
        assert (found.text, found.status, found.frames) == (expected.text, expected.status, expected.frames)
        assert torch.tensor(found.boxes or []).allclose(torch.tensor(expected.boxes or []), atol=0.0101)


def test_killed_anywhere_and_run_again_gives_the_same_file(engine, rows, synthetic_set, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "p.jsonl"
    predict(engine, rows, synthetic_set.folder, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    for done in (0, 1, 5, len(rows) - 1):
        out.write_bytes(b"".join(lines[:done]) + lines[done][:20])  # in the middle of a batch and of a line
        counts = predict(engine, rows, synthetic_set.folder, out)
        assert out.read_bytes() == whole.read_bytes() and counts["skipped"] == done


def test_two_processes_share_the_batches(engine, rows, synthetic_set, tmp_path):
    whole, halves = tmp_path / "whole.jsonl", [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]
    predict(engine, rows, synthetic_set.folder, whole)
    with counted_tower(engine) as calls:
        for number, half in enumerate(halves):
            predict(engine, iter(rows), synthetic_set.folder, half, share=(number, 2))

    assert sum(calls) == len({media_of(row) for row in rows})
    lines = [set(file.read_text().splitlines()) for file in (whole, *halves)]
    assert lines[0] == lines[1] | lines[2] and not lines[1] & lines[2] and min(map(len, lines)) > 2


def test_predictions_come_out_in_the_order_of_the_rows(engine, rows, synthetic_set, tmp_path):
    out = tmp_path / "p.jsonl"
    earlier = PredictionRow(id="of another file", text="")
    out.write_text(dump_row(earlier) + "\n")
    predict(engine, rows, synthetic_set.folder, out)
    found = [prediction.id for prediction in read_rows(out, PredictionRow)]
    assert found != [earlier.id, *(row.id for row in rows)]
    sort_predictions(out, (row.id for row in rows))
    lines = out.read_bytes()
    assert [json.loads(line)["id"] for line in lines.splitlines()] == [*(row.id for row in rows), earlier.id]
    file = out.stat().st_ino
    sort_predictions(out, (row.id for row in rows))
    assert out.stat().st_ino == file and out.read_bytes() == lines  # not written anew


def test_a_broken_video_fails_its_rows_and_no_others(engine, synthetic_set, tmp_path):
    """One that opens but does not decode: its sentences fail together, those of the other video stay together."""
    video = synthetic_set.of("stvg")
    broken = (synthetic_set.folder / video.videos[0]).read_bytes()
    start = broken.index(b"mdat") + 4
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "broken.mp4").write_bytes(broken[:start] + bytes(len(broken) - start))
    bad = [video.model_copy(update={"id": f"bad {i}", "videos": [str(folder / "broken.mp4")]}) for i in range(3)]
    good = [video.model_copy(update={"id": f"good {i}"}) for i in range(3)]
    out = tmp_path / "p.jsonl"
    with counted_tower(engine) as calls:
        counts = predict(engine, [*bad[:2], *good, bad[2]], synthetic_set.folder, out, size=6)

    assert counts["failed"] == 3 and len(calls) == 1
    assert all((p.status == "failed") == p.id.startswith("bad") for p in by_id(out).values())


def test_with_the_instruction_first_rows_share_pixels_alone(make_engine, synthetic_set, tmp_path, monkeypatch):
    """The language model reads each by itself; the video of a batch is decoded once and seen by the tower once."""
    engine = make_engine("qwen3_vl", video_maxlen=6, instruction_first=True)
    rows = [row for row in synthetic_set.rows if row.task == "stvg" and row.videos == synthetic_set.rows[0].videos]
    decoded, pictures = [], engine.prompter.pictures
    monkeypatch.setattr(
        engine.prompter, "pictures", lambda plan: decoded.append(plan) or pictures(plan), raising=False
    )
    with counted_tower(engine) as calls:
        predict(engine, rows, synthetic_set.folder, tmp_path / "p.jsonl", size=2)

    assert len(rows) >= 3 and set(calls) == {1}
    assert len(decoded) == len(calls)


# Ground.


@pytest.fixture(scope="module")
def model(engine, tmp_path_factory):
    """With the heads that it has: a plain base would get fresh ones each time."""
    folder = tmp_path_factory.mktemp("prefix") / "model"
    engine.model.save_pretrained(folder)
    engine.processor.save_pretrained(folder)
    return folder


def ground(model, video, *more):
    common = ["--model", str(model), "--video", str(video), "--max-new-tokens", str(TOKENS)]
    return main(["ground", *common, "--arg", "infer_dtype=float32", "--arg", "video_maxlen=6", *more])


def test_ground_takes_several_sentences_and_a_file_of_them(model, media, tmp_path, capsys):
    sentences = ["the red circle", "the blue square that moves", "a dog"]
    (tmp_path / "s.txt").write_text(f"\ufeff{sentences[1]}\r\n\n  {sentences[2]}\n", encoding="utf-8")
    out, given = tmp_path / "p.jsonl", ["--query", sentences[0], "--queries", str(tmp_path / "s.txt")]
    assert ground(model, media["five"], *given, "--json", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    together = [PredictionRow.model_validate_json(line) for line in printed.splitlines()]
    assert [prediction.id for prediction in together] == sentences
    for sentence, prediction in zip(sentences, together, strict=True):
        assert ground(model, media["five"], "--query", sentence, "--json") == 0
        alone = PredictionRow.model_validate_json(capsys.readouterr().out)
        assert (prediction.id, prediction.text, prediction.frames) == (alone.id, alone.text, alone.frames)
        assert torch.tensor(prediction.boxes).allclose(torch.tensor(alone.boxes), atol=0.0101)

    assert ground(model, media["five"], *given) == 0
    entries = capsys.readouterr().out.split("\n\n")
    assert [entry.splitlines()[1].split(maxsplit=1) for entry in entries if entry.startswith("video")] == [
        ["query", sentence] for sentence in sentences
    ]


@pytest.mark.parametrize(
    "more, code, says",
    [
        ([], 2, "there is no sentence to look for"),
        (["--query", "x", "--query", " "], 2, "--query is empty"),
        (["--queries", "blank.txt"], 2, "there is no sentence to look for"),
        (["--queries", "latin.txt"], 1, "latin.txt: not UTF-8"),
        (["--queries", "nowhere.txt"], 1, "nowhere.txt"),
        (
            ["--query", "x", "--query", "y", "--render", "o.png"],
            2,
            "--render draws the tube of one sentence, not of 2",
        ),
        (["--queries", "s.txt", "--out", "s.txt"], 2, "--out s.txt is the file of --queries"),
    ],
)
def test_ground_says_in_one_line_what_is_wrong(model, media, tmp_path, monkeypatch, more, code, says, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.txt").write_text("x\n")
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes("é\n".encode("latin-1"))
    assert ground(model, media["five"], *more) == code
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("spacevllm-cli ground: ") and says in error[0]


# An adapter.


def test_with_an_adapter_on_top(make_engine, media):
    """Its layers read the prefix and the sentences alike, and its modules to save decode the boxes."""
    import copy

    from peft import LoraConfig, get_peft_model

    engine = copy.copy(make_engine("qwen3_vl"))
    torch.manual_seed(1)
    settings = LoraConfig(
        target_modules=["q_proj", "v_proj", "down_proj"],
        modules_to_save=["staq_embedding", "space_decoder"],
        init_lora_weights=False,
    )
    plain = engine.model
    engine.model = get_peft_model(copy.deepcopy(plain), settings).eval()
    items = [
        prompt(engine, f"<video>{text}", videos=[media["five"]], task="stvg") for text in ("Where?", "And the dog?")
    ]
    shared = ground_batch(engine.model, engine.prompter, items, TOKENS)
    for item, found in zip(items, shared, strict=True):
        (alone,) = ground_batch(engine.model, engine.prompter, [item], TOKENS)
        (without,) = ground_batch(plain, engine.prompter, [item], TOKENS)
        assert found.text == alone.text
        assert torch.tensor(found.boxes).allclose(torch.tensor(alone.boxes), atol=0.0101)
        assert not torch.tensor(found.boxes).allclose(torch.tensor(without.boxes), atol=0.1)
