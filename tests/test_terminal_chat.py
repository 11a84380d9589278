"""`llamafactory-cli chat`: videos by path, a table instead of JSON, pictures in a folder; other models as before."""

import os
import re
import subprocess
import sys
from pathlib import Path

import av
import pytest
from conftest import write_image, write_video
from PIL import Image

from spacevllm_plugin.backbones.tiny import make_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    write_video(folder / "clip.mp4", 12)
    write_image(folder / "picture.png", 3)
    make_tiny("qwen3_vl", folder / "ours", seed=0)
    make_tiny("qwen3_vl", folder / "other", merge_size=1)
    return folder


def chat(folder, model, template, *lines, **environment):
    """What a terminal shows when these lines are typed."""
    program = str(Path(sys.executable).with_name("llamafactory-cli"))
    arguments = ["--template", template, "--infer_dtype", "float32", "--max_new_tokens", "6", "--video_maxlen", "6"]
    done = subprocess.run(
        [program, "chat", "--model_name_or_path", str(folder / model), *arguments],
        input="".join(f"{line}\n" for line in lines),
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stderr and done.returncode == 0, done.stderr[-2000:]
    return done.stdout.partition("Welcome to the CLI")[2]


def test_a_reply_is_a_text_a_table_and_pictures(folder):
    shown = chat(
        folder,
        "ours",
        "spacevllm_qwen3_vl",
        "/video nowhere.mp4",
        "/video http://127.0.0.1:9/away.mp4",
        "/video clip.mp4",
        "When and where?",
        "Where is the <video>?",  # refused, and taken back
        "/image picture.png",
        "And here?",
        SPACEVLLM_STORAGE_SECONDS="0",
    )
    assert "away.mp4: not reached for 0 seconds" in shown
    assert "nowhere.mp4: No such file" in shown and "2 `<video>` in the text, but 1 videos" in shown
    assert '{"tubes"' not in shown and "```" not in shown
    tables = re.findall(r"^medium .*\n((?:.+\n)+?)(?=drawn: )", shown, flags=re.MULTILINE)
    assert [[line.split("  ")[0] for line in table.splitlines()] for table in tables] == [
        ["clip.mp4"],
        ["clip.mp4", "picture.png"],
    ]
    drawn = [folder / path for path in re.findall(r"^drawn: (.*)$", shown, flags=re.MULTILINE)]
    assert [path.suffix for path in drawn] == [".png", ".mp4", ".png", ".mp4", ".png"]
    assert all(path.is_relative_to(folder / "outputs" / "chat") for path in drawn)
    for path in drawn:
        if path.suffix == ".mp4":
            with av.open(str(path)) as video:
                assert sum(1 for _ in video.decode(video=0)) == 12
        else:
            Image.open(path).verify()


def test_it_is_greedy_unless_asked_otherwise(folder):
    questions = ["/video clip.mp4", "When and where?", "clear"] * 3

    def answers(template, **environment):
        shown = chat(folder, "ours", template, *questions, SPACEVLLM_CHAT_DIR=str(folder / "drawn"), **environment)
        return re.findall(r"Assistant: (.*?)\n\n", shown, flags=re.DOTALL)

    found = answers("spacevllm_qwen3_vl")
    assert len(found) == 3 and len(set(found)) == 1


def test_other_templates_chat_as_without_us(folder):
    lines = ["/video clip.mp4", "exit"]
    arguments = (folder, "other", "qwen3_vl", *lines)
    shown, stock = chat(*arguments), chat(*arguments, SPACEVLLM_DISABLE="1")
    # The answers are sampled.
    said = [re.sub(r"Assistant: .*", "", text, flags=re.DOTALL) for text in (shown, stock)]
    assert said[0] == said[1] and "/image" not in said[0] and "Assistant: " in shown
