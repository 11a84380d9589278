"""What the tests share: tiny checkpoints, a small synthetic set, engines, prompts and batches."""

import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.data.schema import AnnotationRow, Media
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.data.video import VideoRef


CLOSE = {"atol": 1e-5, "rtol": 0}
BACKBONES = tuple(spec.name for spec in registry.usable())

with suppress(ImportError):  # `make gpu-check` runs where hypothesis is not
    from hypothesis import settings

    settings.register_profile("fuzz", max_examples=2000, deadline=None)


def pytest_configure(config):
    """The tests are made for CPUs, but for those that `-m cuda` chooses: they must not find a machine's GPU."""
    if "cuda" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """`tiny_base(backbone)`: folder of a tiny plain checkpoint."""

    @cache
    def base(backbone):
        torch.set_num_threads(1)  # more threads only slow a model this small down
        out = tmp_path_factory.mktemp(f"tiny_{backbone}")
        make_tiny(backbone, out, seed=0)
        return out

    return base


@dataclass(frozen=True)
class SyntheticSet:
    folder: Path
    rows: list[AnnotationRow]

    def of(self, task, index=0):
        """Row number `index` of a task."""
        return [row for row in self.rows if row.task == task][index]


@pytest.fixture(scope="session")
def synthetic_set(tmp_path_factory):
    """Three videos of 12 frames of 48 x 48 pixels at 2 a second, with rows of all four tasks."""
    folder = tmp_path_factory.mktemp("synthetic")
    return SyntheticSet(folder, write_set(folder, SynthConfig(num_videos=3, tasks=("stvg", "vtg", "rec", "qa"))))


@pytest.fixture(scope="session")
def make_engine(tiny_base):
    """`make_engine(backbone, **arguments)`: an engine over the tiny base; the same arguments give the same object."""
    engines = {}

    def make(backbone, **arguments):
        key = json.dumps([backbone, arguments], sort_keys=True)
        if key not in engines:
            from spacevllm_plugin.integration.engine_loader import load_engine

            torch.manual_seed(0)  # the fresh heads'
            engines[key] = load_engine(str(tiny_base(backbone)), infer_dtype="float32", **arguments)
            engines[key].model.requires_grad_(True)

        return engines[key]

    return make


@pytest.fixture(scope="session", params=BACKBONES)
def engine(request, make_engine):
    """An engine of each backbone in turn, with everything at its default."""
    return make_engine(request.param)


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    return {
        "five": write_video(folder / "five.mp4", 5),
        "two": write_video(folder / "two.mp4", 2, fps=2, first=20),
        "portrait": write_video(folder / "portrait.mp4", 3, width=48, height=80, first=40),
        "frames": [write_image(folder / f"{number}.png", 60 + number) for number in range(3)],
        "image": write_image(folder / "image.png", 90),
    }


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Files of every kind; picture numbers tell frames of different files apart."""
    folder = tmp_path_factory.mktemp("files")
    frames = [write_image(folder / f"f{number}.png", 70 + number) for number in range(3)]
    return {
        "five": write_video(folder / "five.mp4", 5),
        "two": write_video(folder / "two.mp4", 2, fps=2, first=20),
        "one": write_video(folder / "one.mp4", 1, first=30),
        "twelve": write_video(folder / "twelve.mp4", 12, fps=2),
        "portrait": write_video(folder / "portrait.mp4", 4, width=48, height=80, first=40),
        "vfr": write_video(folder / "vfr.mp4", 4, times=[0, 100, 700, 1500], first=60),
        "clip": VideoRef(str(folder / "five.mp4"), clip=(1, 4)).encode(),
        "frames": frames,
        "fast_frames": VideoRef(frames=tuple(frames), fps=10.0).encode(),
        "image": write_image(folder / "image.png", 90),
        "wide": write_image(folder / "wide.png", 91, width=96, height=48),
    }


@pytest.fixture(scope="session")
def prompts(media):
    """`prompts(engine)`: of different lengths, with every kind of medium."""

    def make(engine):
        return {
            "video": prompt(engine, '<video>Where is "the red circle"?', videos=[media["five"]]),
            "image": prompt(engine, "<image>Where is the dog?", [media["image"]]),
            "text": prompt(engine, "How many circles appear?"),
            "mixed": prompt(
                engine, "<video>and <image>and <video>Which?", [media["image"]], [media["two"], media["portrait"]]
            ),
            "turns": prompt(
                engine,
                [user("<video>Where?"), {"role": "assistant", "content": "Here."}, user("<video>And when?")],
                videos=[media["frames"], media["two"]],
            ),
        }

    return make


def changed(row, **changes):
    """A copy of a row with other values at dotted paths (`__` for the dot)."""
    row = json.loads(json.dumps(row))
    for path, value in changes.items():
        *parents, last = path.split("__")
        holder = row
        for parent in parents:
            holder = holder[parent]

        holder[last] = value

    return row


def picture(number, width=48, height=48):
    """A picture that no other number gives."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def write_video(path, count, width=48, height=48, fps=4, times=None, first=0):
    """Encode pictures `first`, `first + 1`, …; `times` in milliseconds where the rate varies."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "1"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)

        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(first + number, width, height), "rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)

            output.mux(stream.encode(frame))

        output.mux(stream.encode(None))

    return str(path)


def write_image(path, number=0, width=48, height=48):
    Image.fromarray(picture(number, width, height)).save(path)
    return str(path)


def user(content):
    return {"role": "user", "content": content}


def prompt(engine, content, images=(), videos=(), task="qa"):
    """A one-turn prompt, or a conversation where `content` is a list of messages."""
    messages = [user(content)] if isinstance(content, str) else content
    media = Media(width=48, height=48) if images or videos else None
    return engine.item("x", task, messages, list(images), list(videos), media)


def collate(engine, items, side="left", extra=0):
    """The model's inputs for a batch of prompts, padded on one side by `extra` more tokens than needed."""
    pad = engine.processor.tokenizer.pad_token_id
    length = max(len(item.token_ids) for item in items) + extra
    ids, masks = [], []
    for item in items:
        fill = length - len(item.token_ids)
        before, after = (fill, 0) if side == "left" else (0, fill)
        ids.append([pad] * before + item.token_ids + [pad] * after)
        masks.append([0] * before + [1] * len(item.token_ids) + [0] * after)

    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks)}
    if any(item.images or item.videos for item in items):
        inputs |= engine.prompter.model_inputs(
            [item.token_ids for item in items], [item.images for item in items], [item.videos for item in items]
        )

    return inputs


@torch.no_grad()
def run(engine, inputs, **kwargs):
    return engine.model(**inputs, **kwargs)


def supervised(engine, items):
    """A training batch, right-padded: the last three tokens of each row are its answer, boxes partly known."""
    inputs = collate(engine, items, side="right")
    labels = torch.full_like(inputs["input_ids"], -100)
    for row, item in enumerate(items):
        end = len(item.token_ids)
        labels[row, end - 3 : end] = inputs["input_ids"][row, end - 3 : end]

    torch.manual_seed(3)
    targets = torch.rand(len(inputs["staq_layout"]), 4) * 0.4 + 0.2
    targets[::3] = math.nan
    return {**inputs, "labels": labels, "box_targets": targets}


def text_of(engine, ids):
    return engine.processor.tokenizer.decode(ids)


def staq_id(engine):
    return engine.processor.tokenizer.convert_tokens_to_ids("<|staq|>")
