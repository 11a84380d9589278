"""The synthetic set: shapes that appear and move in short videos, one sentence for each, exact tubes.

A shape is visible only in its own span, and spans overlap, so the sentence decides both when and where. Sentences name
colour, form and direction; a few pairs of colour and form are held out: they never appear in the `train` split and are
every target of the `heldout` split.
"""

import json
import random
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import av
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from .output import Outputs
from .prompts import answer, instruction
from .schema import AnnotationRow, Media, Message, Target, dump_row
from .timeline import Timeline, sample_frames


COLOURS = {
    "red": (230, 30, 30),
    "green": (30, 200, 30),
    "blue": (50, 70, 255),
    "yellow": (240, 230, 30),
    "purple": (190, 40, 220),
    "cyan": (30, 220, 230),
}
SHIFT_COLOURS = {"orange": (255, 140, 20)}
FORMS = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
HELD_OUT = (("red", "square"), ("green", "circle"), ("blue", "triangle"), ("purple", "circle"))
SHIFT_HELD_OUT = (("orange", "square"),)

SHAPES_PER_VIDEO = 3
PREVIEW_VIDEOS = 6
# Footage kept in memory, already scaled to the size of the set.
FOOTAGE_FRAMES = 256

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SynthConfig:
    """What set to write.

    Attributes:
        num_videos: Videos; more of them leaves the first ones as they are.
        seed: The same seed gives the same set; splits never share a random stream.
        split: `train` or `heldout`.
        size: Width and height in pixels; even, at least 32.
        num_frames: Frames of each video, at least 6.
        fps: Frames per second.
        shift: Textured backgrounds and one more colour.
        background: A video file whose frames lie behind the shapes.
        tasks: Kinds of rows to write, out of `schema.TASKS`.
    """

    num_videos: int
    seed: int = 0
    split: Literal["train", "heldout"] = "train"
    size: int = 48
    num_frames: int = 12
    fps: float = 2.0
    shift: bool = False
    background: str | None = None
    tasks: tuple[str, ...] = ("stvg",)

    def __post_init__(self) -> None:
        if self.num_videos < 1:
            raise ValueError(f"{self.num_videos} videos: at least 1 is needed")

        if self.size < 32 or self.size % 2:
            raise ValueError(f"size {self.size}: it must be even (H.264) and at least 32")

        if self.num_frames < 2 * SHAPES_PER_VIDEO:
            raise ValueError(f"{self.num_frames} frames: at least {2 * SHAPES_PER_VIDEO} are needed")

        if not 0 < self.fps <= 120:
            raise ValueError(f"{self.fps} frames per second: it must be above 0 and at most 120")

    @property
    def name(self) -> str:
        """Names the variant and the split, for instance `shift_train`."""
        return f"shift_{self.split}" if self.shift else self.split

    @cached_property
    def colours(self) -> dict[str, tuple[int, int, int]]:
        """RGB of each colour that may appear."""
        return COLOURS | SHIFT_COLOURS if self.shift else COLOURS

    @cached_property
    def held_out(self) -> tuple[tuple[str, str], ...]:
        """Pairs of colour and form that `train` never shows."""
        return HELD_OUT + SHIFT_HELD_OUT if self.shift else HELD_OUT


@dataclass(frozen=True)
class Shape:
    """One shape and its tube.

    Attributes:
        colour: A key of the colours.
        form: One of `FORMS`.
        direction: A key of `DIRECTIONS`.
        span: Half-open range of frames in which it is visible.
        boxes: Pixels that it fills, xyxy with x2 and y2 exclusive, for each frame of the span.
    """

    colour: str
    form: str
    direction: str
    span: tuple[int, int]
    boxes: tuple[Box, ...]

    @property
    def noun(self) -> str:
        """What it looks like."""
        return f"the {self.colour} {self.form}"

    @property
    def sentence(self) -> str:
        """What it looks like and does."""
        return f"{self.noun} that moves {self.direction}"


@dataclass(frozen=True)
class Scene:
    """One video before encoding.

    Attributes:
        name: File name without suffix.
        shapes: In drawing order; their boxes never overlap.
        frames: RGB, uint8, (num_frames, size, size, 3).
    """

    name: str
    shapes: tuple[Shape, ...]
    frames: np.ndarray


def make_scene(config: SynthConfig, index: int, footage: np.ndarray | None = None) -> Scene:
    """Video number `index` of a set; does not depend on the other videos.

    Args:
        config: The set.
        index: 0-based.
        footage: Frames for the background, (any number, size, size, 3).
    """
    # A string seeds the same stream on every platform, and every set and video gets its own.
    rng = random.Random(f"{config.name}/{config.seed}/{index}")
    shapes = _place_shapes(config, rng)
    frames = _background(config, rng, footage)
    for shape in shapes:
        for frame, (x1, y1, x2, y2) in zip(frames[slice(*shape.span)], shape.boxes):
            frame[y1:y2, x1:x2][_mask(shape.form, x2 - x1)] = config.colours[shape.colour]

    return Scene(name=f"v{index:05d}", shapes=shapes, frames=frames)


def scene_rows(config: SynthConfig, scene: Scene) -> list[AnnotationRow]:
    """The annotation rows of one video; in `heldout` only those whose target is a held-out pair."""
    timeline = Timeline(config.num_frames, config.fps)
    video = f"videos/{scene.name}.mp4"
    video_media = Media(width=config.size, height=config.size, fps=config.fps, num_frames=config.num_frames)
    image_media = Media(width=config.size, height=config.size)

    def row(task: str, number: int, question: str, reply: str, **columns) -> AnnotationRow:
        tag = "<image>" if task == "rec" else "<video>"
        return AnnotationRow(
            id=f"synth/{config.name}/{config.seed}/{scene.name}/{task}/{number}",
            task=task,
            group="synthetic",
            messages=[Message(role="user", content=tag + question), Message(role="assistant", content=reply)],
            **columns,
        )

    rows = []
    for number, shape in enumerate(scene.shapes):
        if config.split == "heldout" and (shape.colour, shape.form) not in config.held_out:
            continue

        seconds = timeline.span_seconds(shape.span)
        span = {"span_frames": shape.span, "span_seconds": seconds}
        tube = {"frames": list(range(*shape.span)), "boxes": shape.boxes}
        middle = len(shape.boxes) // 2
        for task in config.tasks:
            if task == "qa":
                continue

            if task == "rec":
                query, target = shape.noun, Target(frames=[0], boxes=[shape.boxes[middle]])
                media = {"images": [_image_path(scene, number)], "media": image_media}
            else:
                query, target = shape.sentence, Target(**span, **(tube if task == "stvg" else {}))
                media = {"videos": [video], "media": video_media}

            question, reply = instruction(task, query), answer(task, seconds)
            rows.append(row(task, number, question, reply, query=query, target=target, **media))

    if "qa" in config.tasks:
        form = FORMS[int(scene.name[1:]) % len(FORMS)]
        count = sum(shape.form == form for shape in scene.shapes)
        rows.append(row("qa", 0, f"How many {form}s appear?", str(count), videos=[video], media=video_media))

    return rows


def write_set(out: Path, config: SynthConfig) -> list[AnnotationRow]:
    """Write videos, `annotations.jsonl`, `dataset_info.json` and `preview.png` into a folder.

    Returns:
        The rows; their media paths are relative to the folder.
    """
    (out / "videos").mkdir(parents=True, exist_ok=True)
    footage = _load_footage(config) if config.background else None
    # What is written over an earlier set is not that set any more, and this one only when it is whole.
    (out / "annotations.jsonl").unlink(missing_ok=True)
    rows, strips = [], []
    for index in range(config.num_videos):
        scene = make_scene(config, index, footage)
        scene_part = scene_rows(config, scene)
        _encode(out / "videos" / f"{scene.name}.mp4", scene.frames, config.fps)
        if "rec" in config.tasks:
            _save_images(out, scene, {path for row in scene_part for path in row.images or ()})

        if index < PREVIEW_VIDEOS:
            strips.append(_strip(scene))

        rows += scene_part

    entry = {f"synth_{config.name}": {"file_name": "annotations.jsonl", "formatting": "spacevllm"}}
    with Outputs() as outputs:
        Image.fromarray(np.concatenate(strips)).save(outputs.open(out / "preview.png"), "PNG")
        outputs.open(out / "annotations.jsonl").writelines(dump_row(row).encode() + b"\n" for row in rows)
        outputs.open(out / "dataset_info.json").write(json.dumps(entry, indent=2).encode() + b"\n")

    return rows


def _place_shapes(config: SynthConfig, rng: random.Random) -> tuple[Shape, ...]:
    """Draw until no two shapes touch in any frame or have the same span."""
    pairs = [(colour, form) for colour in config.colours for form in FORMS]
    if config.split == "train":
        looks = rng.sample([pair for pair in pairs if pair not in config.held_out], SHAPES_PER_VIDEO)
    else:
        target = rng.choice(config.held_out)
        looks = [target, *rng.sample([pair for pair in pairs if pair != target], SHAPES_PER_VIDEO - 1)]

    while True:
        shapes = [_random_shape(config, rng, *look) for look in looks]
        if not any(_clash(a, b) for i, a in enumerate(shapes) for b in shapes[:i]):
            return tuple(shapes)


def _random_shape(config: SynthConfig, rng: random.Random, colour: str, form: str) -> Shape:
    """A straight path through the frame at constant speed, up to rounding to pixels."""
    length = rng.randint(max(2, config.num_frames // 6), config.num_frames // 3)
    start = rng.randint(0, config.num_frames - length)
    side = rng.randint(round(0.2 * config.size), round(0.3 * config.size))
    room = config.size - side
    travel = rng.uniform(0.25, 0.6) * room
    along, across = rng.uniform(0, room - travel), rng.uniform(0, room)
    direction = rng.choice(list(DIRECTIONS))
    dx, dy = DIRECTIONS[direction]

    boxes = []
    for step in np.linspace(0, travel, length):
        moved = along + (step if dx + dy > 0 else travel - step)
        x, y = (moved, across) if dx else (across, moved)
        boxes.append((round(x), round(y), round(x) + side, round(y) + side))

    return Shape(colour, form, direction, (start, start + length), tuple(boxes))


def _clash(a: Shape, b: Shape) -> bool:
    if a.span == b.span:
        return True

    shared = range(max(a.span[0], b.span[0]), min(a.span[1], b.span[1]))
    pairs = [(a.boxes[frame - a.span[0]], b.boxes[frame - b.span[0]]) for frame in shared]
    return any(p[0] <= q[2] and q[0] <= p[2] and p[1] <= q[3] and q[1] <= p[3] for p, q in pairs)


@cache
def _mask(form: str, side: int) -> np.ndarray:
    """Pixels of a form in a square that it touches on all four sides."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    if form == "circle":
        return x**2 + y**2 <= (side / 2) ** 2

    if form == "triangle":
        return np.abs(x) <= (y + side / 2 + 0.5) / 2

    return np.ones((side, side), dtype=bool)


def _background(config: SynthConfig, rng: random.Random, footage: np.ndarray | None) -> np.ndarray:
    """Frames without shapes: black, footage from a random moment on, or a dim gradient with a coarse texture."""
    shape = (config.num_frames, config.size, config.size, 3)
    if footage is not None:
        start = rng.randrange(max(1, len(footage) - config.num_frames + 1))
        return footage[np.arange(start, start + config.num_frames) % len(footage)]

    if not config.shift:
        return np.zeros(shape, dtype=np.uint8)

    noise = np.random.default_rng(rng.getrandbits(64))
    ramp = np.linspace(0, 1, config.size)[:, None, None]
    top, bottom = noise.uniform(20, 100, (2, 3))
    gradient = (1 - ramp) * top + ramp * bottom
    cell = -(-config.size // 8)
    texture = np.kron(noise.uniform(-20, 20, (8, 8, 1)), np.ones((cell, cell, 1)))
    still = gradient + texture[: config.size, : config.size]
    return np.broadcast_to(still.clip(0, 255).astype(np.uint8), shape).copy()


def _load_footage(config: SynthConfig) -> np.ndarray:
    """Frames of the background file at the rate of the set, cropped to its square."""
    from .video import VideoRef, probe, read

    ref = VideoRef.parse(config.background)
    timeline = probe(ref).timeline
    wanted = sample_frames((0, timeline.num_frames), timeline, "fps", FOOTAGE_FRAMES, config.fps)
    square = (config.size, config.size)
    return np.stack([np.asarray(ImageOps.fit(image.convert("RGB"), square)) for image in read(ref, wanted)])


def _encode(path: Path, frames: np.ndarray, fps: float) -> None:
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "12"}
        # Threads cost more than they save on so few pixels, and one thread gives the same bytes every time.
        stream.thread_count = 1
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))

        container.mux(stream.encode())


def _image_path(scene: Scene, number: int) -> str:
    return f"images/{scene.name}_{number}.png"


def _save_images(out: Path, scene: Scene, paths: set[str]) -> None:
    """Save the middle frame of each shape that a rec row asks for."""
    (out / "images").mkdir(exist_ok=True)
    for number, shape in enumerate(scene.shapes):
        path = _image_path(scene, number)
        if path in paths:
            Image.fromarray(scene.frames[shape.span[0] + len(shape.boxes) // 2]).save(out / path)


def _strip(scene: Scene) -> np.ndarray:
    """The frames of a video side by side, boxes outlined in white."""
    images = [Image.fromarray(frame) for frame in scene.frames]
    for shape in scene.shapes:
        for frame, (x1, y1, x2, y2) in zip(range(*shape.span), shape.boxes):
            ImageDraw.Draw(images[frame]).rectangle((x1 - 1, y1 - 1, x2, y2), outline="white")

    return np.concatenate([np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=90) for image in images], axis=1)
