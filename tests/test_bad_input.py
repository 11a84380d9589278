"""Bad input: one clear line, nothing lost."""

import json
import math

import conftest
import pytest
from PIL import Image
from runs import tokenise, train, write_data
from test_picture import broken_images

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.data.video import MediaError
from spacevllm_plugin.integration.dataset import BadRowsError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("bad") / "base"
    make_tiny("qwen3_vl", out)
    return out


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "data"
    write_set(folder, SynthConfig(num_videos=2, seed=5))
    return folder, [row.model_dump(exclude_none=True) for row in read_rows(folder / "annotations.jsonl")]


def changed(row: dict, new_id: str, **changes) -> dict:
    """A copy of a row with another id, and other values at dotted paths."""
    return conftest.changed({**row, "id": new_id}, **changes)


def bad_rows(folder, row) -> dict[str, tuple[dict, str]]:
    """id -> (a bad row, what its message must say): one of each kind."""
    (folder / "videos" / "garbage.mp4").write_bytes(b"this is no video" * 100)
    (folder / "videos" / "empty.mp4").write_bytes(b"")
    conftest.write_image(folder / "videos" / "wide.png", width=64)
    media, frames = row["media"], row["target"]["frames"]
    conftest.write_video(
        folder / "videos" / "wide.mp4", media["num_frames"], width=64, height=48, fps=int(media["fps"])
    )
    reply = row["messages"][1]
    cases = {
        "missing": ({"videos": ["videos/nowhere.mp4"]}, "nowhere.mp4"),
        "garbage": ({"videos": ["videos/garbage.mp4"]}, "garbage.mp4"),
        "empty": ({"videos": ["videos/empty.mp4"]}, "empty.mp4"),
        "field": ({"qury": "x"}, "qury: Extra inputs"),
        "outside": ({"target__span_frames": [4, 99]}, "outside the video"),
        "reversed": ({"target__span_frames": [6, 4]}, "empty or reversed"),
        "box-outside": ({"target__boxes": [[0, 0, media["width"] + 9, 5]] * len(frames)}, "leaves the"),
        "box-empty": ({"target__boxes": [[5, 5, 5, 5]] * len(frames)}, "empty or reversed"),
        "no-tag": ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "<video>"),
        "turns": ({"messages": [*row["messages"], reply]}, "in turn"),
        "long": ({"messages": [row["messages"][0], {**reply, "content": "word " * 3000}]}, "needs `cutoff_len` of at"),
    }
    asked, told = row["messages"]
    for name, messages, says in (
        ("query", [{**asked, "content": asked["content"] + " <|staq|>"}, told], "`<|staq|>` in the user's text"),
        (
            "pad",
            [asked, {**told, "content": told["content"] + "<|video_pad|>"}],
            "`<|video_pad|>` in the assistant's text",
        ),
        ("turn", [{"role": "system", "content": "<|im_end|>"}, asked, told], "`<|im_end|>` in the system's text"),
    ):
        cases[name] = ({"messages": messages}, says)

    rows = {name: (changed(row, name, **changes), says) for name, (changes, says) in (cases | MISFITS).items()}
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Nothing."}]
    for name, says in broken_images(folder).items():
        rows[name] = ({"id": name, "task": "qa", "messages": messages, "images": [name]}, f"{name}: {says}")

    return rows


# Rows of 12 frames, 2 a second, of 48 x 48 pixels that say something else; each would train.
MISFITS = {
    "fps": ({"media__fps": 4.0}, "media-fps: media says 4 frames a second, but the file has 2: 3.00 s apart"),
    "frames": ({"media__num_frames": 15}, "media-frames: media says 15 frames, but the file has 12"),
    "size": ({"media__width": 96, "media__height": 96}, "media-size: media says 96x96 pixels, but the file has 48x48"),
    "turned": (
        {"videos": ["videos/wide.mp4"], "media__width": 48, "media__height": 64},
        "media-size: media says 48x64 pixels, but the file has 64x48 (sizes are those of the picture as displayed)",
    ),
    "picture": (
        {
            "task": "rec",
            "videos": None,
            "images": ["videos/wide.png"],
            "messages": [{"role": "user", "content": "<image>Where?"}, {"role": "assistant", "content": "There."}],
            "target": {"frames": [0], "boxes": [[1, 2, 30, 40]]},
        },
        "media-size: media says 48x48 pixels, but the file has 64x48",
    ),
    "beyond": (
        {"task": "vtg", "media": None, "target": {"span_seconds": [1.0, 9.0]}},
        "span-beyond-end: span_seconds [1.0, 9.0] of a video of 6.00 s",
    ),
    "seconds": ({"target__span_seconds": [0.0, 99.0]}, "span-seconds: span_seconds [0.0, 99.0] are not those of"),
}


def write_bad_data(folder, rows) -> dict[str, str]:
    """A training set and an evaluation set with one of each bad row; what must be said of each, by where it is."""
    bad = bad_rows(folder, rows[0])
    twin, lost = changed(rows[1], rows[0]["id"]), changed(rows[0], "lost", videos=["videos/lost.mp4"])
    held = "".join(json.dumps(row) + "\n" for row in (*rows, twin, lost))
    (folder / "held.jsonl").write_text(held)
    write_data(
        folder,
        [rows[0], *(row for row, _ in bad.values()), *rows[1:], rows[0]],
        held={"file_name": "held.jsonl", "formatting": "spacevllm"},
    )
    with open(folder / "rows.jsonl", "a") as file:
        file.write('{"id": "cut')

    number = len(bad) + len(rows) + 2
    says = {f"id {name}": text for name, (_, text) in bad.items()}
    return says | {
        f"rows.jsonl:{number}": "Invalid JSON",
        f"id {rows[0]['id']}": "an earlier evaluation row has the same id",
        "id lost": "lost.mp4",
    }


def test_every_bad_row_is_named_before_the_first_step(base, good, tmp_path):
    """Those of all data sets at once; the id of a training row may come again, it is used for nothing."""
    folder, rows = good
    says = write_bad_data(folder, rows)
    with pytest.raises(BadRowsError) as error:
        train(base, folder, tmp_path / "out", dataset="rows", eval_dataset="held", do_eval=True, max_steps=1)

    lines = str(error.value).splitlines()
    assert lines[0] == f"{len(says) - 2} of {len(says) - 2 + len(rows) + 1} rows cannot be used:"
    assert f"2 of {len(rows) + 2} evaluation rows cannot be used:" in lines
    for where, text in says.items():
        (line,) = [line for line in lines if f"{where}:" in line or f"{where})" in line]
        assert text in line

    assert "`on_mismatch: skip`" in lines[-2] and "`bad_media: skip`" in lines[-1]


def test_bad_rows_are_left_out_on_request(base, good, tmp_path, caplog):
    folder, rows = good
    write_bad_data(folder, rows)
    common = {"dataset": "rows", "eval_dataset": "held", "bad_media": "skip"}
    with pytest.raises(BadRowsError) as error:
        tokenise(base, folder, tmp_path / "out", **common)

    assert str(error.value).startswith(f"{len(MISFITS)} of ") and "bad_media" not in str(error.value)
    found = tokenise(base, folder, tmp_path / "out", **common, on_mismatch="skip")
    assert [json.loads(row)["id"] for row in found["train_dataset"]["annotation"]] == [
        row["id"] for row in (*rows, rows[0])
    ]
    assert [json.loads(row)["id"] for row in found["eval_dataset"]["annotation"]] == [row["id"] for row in rows]
    assert "They are left out (`bad_media: skip`, `on_mismatch: skip`)" in caplog.text


def test_rows_that_do_not_fit_their_files_may_be_trusted(base, good, tmp_path):
    folder, rows = good
    bad_rows(folder, rows[0])
    misfits = [changed(rows[0], name, **changes) for name, (changes, _) in MISFITS.items()]
    write_data(folder, misfits)
    found = tokenise(base, folder, tmp_path / "out", dataset="rows", on_mismatch="trust")
    assert len(found["train_dataset"]) == len(misfits)


def test_ids_may_repeat_where_nothing_is_grounded(base, good, tmp_path):
    folder, rows = good
    write_data(folder, [rows[0], rows[0]])
    common = {"dataset": "rows", "eval_dataset": "rows", "tokenized_path": str(tmp_path / "tokenised")}
    found = tokenise(base, folder, tmp_path / "out", **common, grounding_metrics=False)
    assert len(found["eval_dataset"]) == 2
    with pytest.raises(
        ValueError, match="evaluation rows at `tokenized_path.* an earlier evaluation row has the same"
    ):
        tokenise(base, folder, tmp_path / "out", **common)


def test_rows_of_other_formats_are_named_too(base, good, tmp_path):
    """They have no schema of ours that would look at their texts."""
    folder, rows = good
    texts = ["Draw a <video>.", "What is <|image_pad|>?", "Hello."]
    others = [{"instruction": text, "input": "", "output": "Fine."} for text in texts]
    (folder / "others.json").write_text(json.dumps(others))
    write_data(folder, rows[:1], others={"file_name": "others.json"})
    with pytest.raises(BadRowsError, match="^2 of 4 rows") as error:
        train(base, folder, tmp_path / "out", dataset="rows,others", max_steps=1)

    assert "1 `<video>` in the text, but 0 videos" in str(error.value)
    assert "`<|image_pad|>` in the user's text" in str(error.value)


def test_nan_box_is_named():
    from spacevllm_plugin.data.schema import RowError, parse_row

    row = {
        "id": "x",
        "task": "rec",
        "messages": [{"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}],
        "images": ["a.png"],
        "media": {"width": 10, "height": 10},
        "target": {"frames": [0], "boxes": [[0, 0, math.nan, 5]]},
    }
    with pytest.raises(RowError, match=r"id x.*box at frame 0 is not a number"):
        parse_row(row)


def test_too_small_cutoff_names_the_needed_length(base, good, tmp_path):
    folder, rows = good
    write_data(folder, rows[:1])
    with pytest.raises(BadRowsError) as error:
        train(base, folder, tmp_path / "out", dataset="rows", max_steps=1, cutoff_len=64)

    assert "needs `cutoff_len` of at least" in str(error.value)
    needed = int(str(error.value).split("at least ")[1].split(",")[0])
    train(base, folder, tmp_path / "out", dataset="rows", max_steps=1, cutoff_len=needed)


def test_video_that_breaks_during_training(base, good, tmp_path):
    """It was readable when the rows were checked; `skip` goes on without it, the default stops."""
    from spacevllm_plugin.data import video

    folder, rows = good
    (folder / "videos" / "late.mp4").write_bytes((folder / rows[0]["videos"][0]).read_bytes())
    write_data(folder, [changed(rows[0], "late", videos=["videos/late.mp4"]), rows[1], rows[2]])
    read = video.reader.decode

    def break_late(path, *args, **kwargs):
        if "late" in path:
            raise video.MediaError(f"{path}: broken meanwhile")

        return read(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video.reader, "decode", break_late)
        with pytest.raises(video.MediaError, match="late.mp4: broken meanwhile"):
            train(base, folder, tmp_path / "out", dataset="rows", max_steps=1, per_device_train_batch_size=3)

        log = train(
            base,
            folder,
            tmp_path / "out",
            dataset="rows",
            max_steps=1,
            per_device_train_batch_size=3,
            bad_media="skip",
        )
        assert math.isfinite(log[0]["loss"])


@pytest.mark.parametrize(
    "option", [{"packing": True}, {"neat_packing": True}, {"packing": True, "neat_packing": True}]
)
def test_packing_is_refused(base, good, tmp_path, option):
    folder, rows = good
    write_data(folder, rows)
    with pytest.raises(ValueError, match="does not pack"):
        train(base, folder, tmp_path / "out", dataset="rows", max_steps=1, **option)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"stage": "pt"}, "trains with `stage: sft`, not `pt`"),
        ({"stage": "dpo"}, "trains with `stage: sft`, not `dpo`"),
        ({"streaming": True}, "set `streaming: false`"),
        ({"use_unsloth": True}, "does not go with `use_unsloth`"),
        ({"mixture_of_depths": "load"}, "does not go with `mixture_of_depths`"),
        ({"packing": True, "tokenized_path": "tokenised"}, "does not pack"),
    ],
)
def test_what_would_leave_the_queries_out_is_refused(base, good, tmp_path, monkeypatch, option, says):
    """Before anything is loaded, whatever LLaMA-Factory itself would make of it."""
    folder, rows = good
    write_data(folder, rows)
    monkeypatch.chdir(tmp_path)
    if "tokenized_path" in option:
        train(base, folder, tmp_path / "out", dataset="rows", max_steps=1, tokenized_path="tokenised")

    with pytest.raises(ValueError, match=says):
        train(base, folder, tmp_path / "out", dataset="rows", max_steps=1, **option)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"video_maxlen": 4}, "video_maxlen 6, now 4"),
        ({"video_max_pixels": 32 * 32}, "video_max_pixels 2304, now 1024"),
        ({"instruction_first": True}, "instruction_first False, now True"),
    ],
)
def test_tokenised_rows_of_other_settings_are_refused(base, good, tmp_path, option, says):
    """LLaMA-Factory takes what lies at `tokenized_path` as it is; the frames would no longer fit the tokens."""
    folder, rows = good
    write_data(folder, rows)
    common = {"dataset": "rows", "max_steps": 1, "tokenized_path": str(tmp_path / "tokenised")}
    first = train(base, folder, tmp_path / "a", **common)
    again = train(base, folder, tmp_path / "b", **common)
    assert first[0]["loss"] == again[0]["loss"]
    with pytest.raises(ValueError, match=says):
        train(base, folder, tmp_path / "c", **common, **option)


@pytest.mark.parametrize(("count", "width"), [(3, 48), (12, 96)])
def test_video_that_changes_after_tokenising(base, good, tmp_path, count, width):
    """A shorter or wider one would otherwise end the training early without a word, or in a stack trace."""
    folder, rows = good
    video = conftest.write_video(folder / "videos" / "change.mp4", 12, fps=2)
    row = changed(rows[0], "change", videos=["videos/change.mp4"])
    write_data(folder, [row])
    common = {"dataset": "rows", "max_steps": 1, "tokenized_path": str(tmp_path / "tokenised")}
    train(base, folder, tmp_path / "a", **common)
    conftest.write_video(video, count, width=width, fps=2)
    with pytest.raises(MediaError, match="change.mp4: no longer as it was when the row was tokenised"):
        train(base, folder, tmp_path / "b", **common)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_engines_without_a_space_decoder_are_refused(base, engine):
    from llamafactory.chat import ChatModel

    with pytest.raises(ValueError, match="set `infer_backend: huggingface`"):
        ChatModel({"model_name_or_path": str(base), "template": "spacevllm_qwen3_vl", "infer_backend": engine})


def test_template_and_model_must_match(base, good, tmp_path):
    folder, rows = good
    write_data(folder, rows)
    with pytest.raises(ValueError, match="template and model do not match"):
        train(base, folder, tmp_path / "out", dataset="rows", max_steps=1, template="spacevllm_qwen2_5_vl")


def test_unknown_backbone(tmp_path):
    from transformers import Qwen2Config

    from spacevllm_plugin.integration.engine_loader import load_engine

    Qwen2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no backbone for .* \(model type `qwen2`\); it has: "):
        load_engine(str(tmp_path))


def test_kinds_of_rows_may_come_in_any_order(base, good, tmp_path):
    """Arrow guesses a column's type from the first thousand rows: here they hold no image, and then one does."""
    folder, rows = good
    Image.new("RGB", (48, 48)).save(folder / "one.png")
    image = {
        "id": "image",
        "task": "qa",
        "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Nothing."}],
        "images": ["one.png"],
    }
    text = {"task": "qa", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    plenty = [{"id": f"text/{i}", **text} for i in range(1001)]
    write_data(folder, [*plenty, rows[0], image])
    train(base, folder, tmp_path / "out", dataset="rows", max_steps=1, preprocessing_batch_size=500)
