"""Tubes as pictures: a video with its boxes drawn in, a contact sheet, or one image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.video.reformatter import Colorspace
from PIL import Image, ImageDraw, ImageFont

from ..data.schema import AnnotationRow, PredictionRow
from ..data.timeline import Timeline, sample_frames
from ..data.tube import interpolate_boxes
from ..data.video import VideoRef, probe, read


# A pair that colour-blind readers can tell apart (Okabe and Ito).
TARGET_COLOR = "#009E73"
PREDICTION_COLOR = "#D55E00"
PAPER, INK, DIM, TRACK = "#161616", "#F2F2F2", "#9A9A9A", "#3A3A3A"

SHORT_SIDE = 360  # pixels; smaller pictures are scaled up to it so that text beside and on them can be read
LONG_SIDE = 1920  # pixels; scaling up stops here
CHUNK_BYTES = 1 << 28  # decoded frames held at a time; every chunk costs a seek, so not too small
TICKS = 90_000  # a second in the mp4's clock; fine enough for any frame rate
SHEET_WIDTH, SHEET_ROWS = 1600, 3
# What a page or a message can carry: some megabytes at worst.
GIF_SIDE, GIF_FRAMES, GIF_FPS, GIF_COLORS = 480, 60, 5, 128
GIF_SHORTEST = 20  # milliseconds; players slow down what is shorter

Box = Sequence[float]
Mark = tuple[Box | None, str, str]  # box (None: not here now), colour, label
Out = Path | BinaryIO  # a path is written in place; a file of `data.output` appears whole or not at all


@dataclass(frozen=True)
class Tube:
    """Something to draw.

    Attributes:
        span_frames: Half-open range of native frames; None where no span is known, then nothing is drawn on a video.
        frames: Increasing native frames that carry a box; empty for a span without boxes.
        boxes: One xyxy box in pixels of the original frame for each of `frames`.
        label: Its name in the picture.
        color: Its colour, `#RRGGBB`.
    """

    span_frames: tuple[int, int] | None
    frames: list[int]
    boxes: list
    label: str
    color: str

    def covers(self, frame: int) -> bool:
        """Whether a native frame lies inside the span."""
        return self.span_frames is not None and self.span_frames[0] <= frame < self.span_frames[1]


def tube_from_target(row: AnnotationRow) -> Tube:
    """The ground truth of a row that has a target."""
    target = row.target
    return Tube(target.span_frames, target.frames or [], target.boxes or [], "ground truth", TARGET_COLOR)


def tube_from_prediction(pred: PredictionRow) -> Tube:
    """What a model answered; the label says so where it is no usable answer."""
    label = "prediction" if pred.status == "ok" else f"prediction ({pred.status})"
    return Tube(pred.span_frames, pred.frames or [], pred.boxes or [], label, PREDICTION_COLOR)


def render(ref: VideoRef, tube: Tube, out: Out, caption: str = "") -> None:
    """Draw one tube; the file name decides how: `.mp4` is a video, `.png` a contact sheet."""
    writers = {".mp4": render_video, ".png": contact_sheet}
    suffix = Path(out.name).suffix.lower()
    if suffix not in writers:
        raise ValueError(f"cannot render to {out.name!r}: the file name must end in .mp4 or .png")

    writers[suffix](ref, [tube], out, caption)


def render_video(ref: VideoRef, tubes: list[Tube], out: Out, caption: str = "", long_side: int | None = None) -> None:
    """Write the whole clip as H.264 with the sentence above, the boxes on it, and the spans on a bar below.

    Args:
        ref: The video; of a part of a file, only that part is written, starting at time 0.
        tubes: What to draw; a box is drawn on the frames inside its tube's span.
        out: The mp4. Every native frame keeps its own time stamp, so a varying frame rate stays as it was.
        caption: The sentence.
        long_side: Most pixels of the picture's longer side; as large as the video is where None.
    """
    info = probe(ref)
    clip = ref.clip or (0, info.timeline.num_frames)
    scale = _readable_scale(info.width, info.height)
    if long_side is not None:
        scale = min(scale, long_side / max(info.width, info.height))

    stages = _stages(ref, tubes, caption, list(range(*clip)), scale)
    _write_mp4(out, stages, info.timeline.fps)


def render_gif(ref: VideoRef, tubes: list[Tube], out: Out, caption: str = "") -> None:
    """Write the whole clip as a small GIF, drawn as `render_video` does: of a long one fewer frames a second.

    Args:
        ref: The video, or a part of it.
        tubes: What to draw.
        out: The GIF: `GIF_FRAMES` frames and `GIF_SIDE` pixels a side at most, whatever the video's size and length.
        caption: The sentence.
    """
    info = probe(ref)
    clip = ref.clip or (0, info.timeline.num_frames)
    frames = sample_frames(clip, info.timeline, "fps", GIF_FRAMES, GIF_FPS)
    scale = min(GIF_SIDE / max(info.width, info.height), _readable_scale(info.width, info.height))
    pictures, lengths = [], []
    for picture, start, end in _stages(ref, tubes, caption, frames, scale):
        picture.thumbnail((GIF_SIDE, GIF_SIDE))  # with the caption and the bars, it may be higher
        pictures.append(picture.quantize(GIF_COLORS, Image.Quantize.FASTOCTREE))
        lengths.append(max(GIF_SHORTEST, round(1000 * (end - start))))

    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], duration=lengths, loop=0)


def contact_sheet(ref: VideoRef, tubes: list[Tube], out: Out, caption: str = "", columns: int = 6) -> None:
    """Write a PNG of evenly spaced frames; a strip per tube under each frame says whether it is inside the span.

    Args:
        ref: The video, or a part of it.
        tubes: What to draw; the bars at the bottom show their spans and name their colours.
        out: The PNG.
        caption: The sentence.
        columns: Most frames side by side.
    """
    info = probe(ref)
    clip = ref.clip or (0, info.timeline.num_frames)
    frames = sample_frames(clip, info.timeline, "uniform", columns * SHEET_ROWS, fps=0)
    columns = min(columns, len(frames))
    cell = min(SHEET_WIDTH // columns, 480)
    scale = _zoom(min(cell / info.width, cell / info.height))
    width, height = round(info.width * scale), round(info.height * scale)
    font, gap, strip = _font(480), 10, 5
    row_height = height + (strip + 2) * len(tubes) + 2 * font.size + gap

    sheet_width = max(SHORT_SIDE + 120, columns * (width + gap) + gap)
    sheet = Image.new("RGB", (sheet_width, row_height * -(-len(frames) // columns) + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (frame, image) in enumerate(zip(frames, read(ref, frames))):
        x, y = gap + place % columns * (width + gap), gap + place // columns * row_height
        # The bars below are the legend: a label on each small box would hide what it frames.
        marks = [(box, color, "") for box, color, _ in _marks(tubes, frame, scale)]
        sheet.paste(draw_frame(_resize(image, (width, height)), marks), (x, y))
        y += height + 3
        for tube in tubes:
            fill = tube.color if tube.covers(frame) else TRACK
            draw.rectangle((x, y, x + width - 1, y + strip - 1), fill=fill)
            y += strip + 2

        draw.text((x, y), _clock(info.timeline.seconds(frame)), fill=INK, font=font)

    bar = _TimelineBar(tubes, info.timeline, clip, sheet_width, font)
    _stack([_caption(caption, sheet_width, font), sheet, bar.image]).save(out, "PNG")


def render_image(image: Image.Image, tubes: list[Tube], out: Out, caption: str = "") -> None:
    """Write one image with the tubes' only boxes (a referring expression has no span)."""
    scale = _readable_scale(*image.size)
    marks = [(np.multiply(tube.boxes[0], scale), tube.color, tube.label) for tube in tubes if tube.boxes]
    size = (round(image.width * scale), round(image.height * scale))
    picture = draw_frame(_resize(image.convert("RGB"), size), marks)
    _stack([_caption(caption, max(SHORT_SIDE, size[0]), _font(min(size))), picture]).save(out, "PNG")


def draw_frame(image: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """A copy of an image with boxes and their labels.

    Args:
        image: RGB.
        marks: `(box, colour, label)`, boxes in xyxy pixels of this image; one that covers no pixel of it is left out,
            an empty label is not drawn. Labels keep clear of the picture's edges and of each other.
    """
    image = image.copy()
    draw = ImageDraw.Draw(image)
    font = _font(min(image.size))
    line = max(2, round(min(image.size) / 240))
    drawn = []
    for order, (box, color, label) in enumerate(marks):
        if box is None:
            continue

        x1, y1, x2, y2 = np.clip(box, 0, [*image.size, *image.size])
        # Not `<=` the other way round: a box with a NaN has to be left out, too.
        if not (x1 < x2 and y1 < y2):
            continue

        corners = (int(x1), int(y1), max(int(x1), round(x2) - 1), max(int(y1), round(y2) - 1))
        # The first tube is drawn thicker: where two agree, the second lies on its outer half and both can be seen.
        draw.rectangle(corners, outline=color, width=line * (len(marks) - order))
        drawn.append((corners, color, label))

    taken: list[Box] = []
    for corners, color, label in drawn:
        if label:
            taken.append(_draw_label(draw, image.size, corners, color, label, font, taken))

    return image


def _draw_label(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], corners: Box, color: str, label: str, font, taken: list[Box]
) -> Box:
    """Draw a label above, below or inside its box, where it covers no other label; returns the label's box."""
    width, height = round(draw.textlength(label, font=font)) + 8, font.size + 6
    x1, y1, x2, y2 = corners
    places = [(x, y) for y in (y1 - height, y2 + 1, y1, y2 - height) for x in (x1, x2 - width)]

    def inside(x: float, y: float) -> Box:
        x, y = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
        return x, y, x + width, y + height

    def clashes(place: Box) -> bool:
        return any(place[0] < b[2] and b[0] < place[2] and place[1] < b[3] and b[1] < place[3] for b in taken)

    fitting = [inside(x, y) for x, y in places if 0 <= y <= size[1] - height]
    anywhere = [inside(0, y) for y in range(0, size[1] - height, height)]
    x, y, *_ = place = next((p for p in fitting + anywhere if not clashes(p)), inside(x1, y1))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    draw.text((x + 4, y + height / 2), label, fill="white", font=font, anchor="lm")
    return place


class _TimelineBar:
    """A bar per tube that shows when it is there, and a clock; drawn once, only the playhead moves."""

    def __init__(
        self, tubes: list[Tube], timeline: Timeline, clip: tuple[int, int], width: int, font: ImageFont.FreeTypeFont
    ) -> None:
        self.font, self.pad, self.row = font, round(font.size * 0.6), round(font.size * 1.6)
        self.start, self.end = timeline.span_seconds(clip)
        self.height = self.row * (len(tubes) + 1) + 2 * self.pad
        self.image = Image.new("RGB", (width, self.height), PAPER)
        draw = ImageDraw.Draw(self.image)

        labels = [_wrap(tube.label, font, 0.42 * width, most=1)[0] for tube in tubes]
        texts = [*labels, _clock(self.end)]
        self.left = 2 * self.pad + round(max(draw.textlength(text, font=font) for text in texts))
        self.right = width - 2 * self.pad
        for number, (tube, label) in enumerate(zip(tubes, labels)):
            top = self.pad + number * self.row
            draw.text((self.pad, top + self.row / 2), label, fill=tube.color, font=font, anchor="lm")
            draw.rectangle((self.left, top + 3, self.right, top + self.row - 4), fill=TRACK)
            if tube.span_frames is not None:
                x1, x2 = (self.x(seconds) for seconds in timeline.span_seconds(tube.span_frames))
                draw.rectangle((x1, top + 3, max(x1 + 1, x2), top + self.row - 4), fill=tube.color)

        self.clock_y = self.height - self.pad - self.row / 2
        draw.text((self.left, self.clock_y), _clock(self.start), fill=DIM, font=font, anchor="lm")
        draw.text((self.right, self.clock_y), _clock(self.end), fill=DIM, font=font, anchor="rm")

    def x(self, seconds: float) -> float:
        """Where a moment lies, in pixels; moments outside the clip are held at its ends."""
        part = (seconds - self.start) / (self.end - self.start)
        return self.left + min(max(part, 0), 1) * (self.right - self.left)

    def at(self, seconds: float) -> Image.Image:
        """The bar with the playhead at a moment, which is written at the left."""
        image = self.image.copy()
        draw = ImageDraw.Draw(image)
        x = self.x(seconds)
        draw.line((x, self.pad, x, self.height - self.pad - self.row), fill="white", width=2)
        draw.text((self.pad, self.clock_y), _clock(seconds), fill=INK, font=self.font, anchor="lm")
        return image


def _marks(tubes: list[Tube], frame: int, scale: float) -> list[Mark]:
    """Each tube with its box at a native frame, in pixels of the scaled picture; None outside its span."""

    def box(tube: Tube) -> Box | None:
        if not (tube.covers(frame) and tube.frames):
            return None

        with np.errstate(over="ignore"):  # a predicted box may be of any size
            return interpolate_boxes(tube.frames, tube.boxes, [frame])[0] * scale

    return [(box(tube), tube.color, tube.label) for tube in tubes]


def _stages(
    ref: VideoRef, tubes: list[Tube], caption: str, frames: list[int], scale: float
) -> Iterator[tuple[Image.Image, float, float]]:
    """Pictures of increasing native frames, with caption and bars, each with the seconds from when to when it is shown."""
    info = probe(ref)
    clip = ref.clip or (0, info.timeline.num_frames)
    size = (max(1, round(info.width * scale)), max(1, round(info.height * scale)))
    width, font = max(SHORT_SIDE, size[0]), _font(min(size))
    head = _caption(caption, width, font)
    bar = _TimelineBar(tubes, info.timeline, clip, width, font)
    ends = [*frames[1:], clip[1]]
    for (frame, image), end in zip(_read_in_chunks(ref, frames, info.width * info.height * 3), ends):
        start, end = info.timeline.span_seconds((frame, end))
        picture = draw_frame(_resize(image, size), _marks(tubes, frame, scale))
        yield _stack([head, picture, bar.at(start)], even=True), start, end


def _read_in_chunks(ref: VideoRef, frames: list[int], frame_bytes: int) -> Iterator[tuple[int, Image.Image]]:
    """Native frames with their images; a long video never lies in memory whole."""
    size = max(1, CHUNK_BYTES // frame_bytes)
    for start in range(0, len(frames), size):
        chunk = frames[start : start + size]
        yield from zip(chunk, read(ref, chunk))


def _write_mp4(out: Out, stages: Iterable[tuple[Image.Image, float, float]], fps: float) -> None:
    """Encode images that carry their start and end in seconds; the first one's start becomes time 0."""
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001 * 60))
        stream.pix_fmt = "yuv420p"
        # Without B-frames packets come in display order, so that each can be given its own length.
        stream.options = {"crf": "18", "preset": "veryfast", "bf": "0"}
        stream.codec_context.time_base = Fraction(1, TICKS)
        # What PyAV converts with; unless the file says so, players guess the colour matrix from the picture's size.
        stream.codec_context.colorspace = Colorspace.ITU601
        origin, lengths = None, {}
        for image, start, end in stages:
            if origin is None:
                origin = start
                stream.width, stream.height = image.size

            frame = av.VideoFrame.from_image(image).reformat(format="yuv420p")
            frame.pts, frame.time_base = round((start - origin) * TICKS), Fraction(1, TICKS)
            lengths[frame.pts] = round((end - start) * TICKS)
            _mux(container, stream.encode(frame), lengths)

        _mux(container, stream.encode(), lengths)


def _mux(container: av.container.OutputContainer, packets: list[av.Packet], lengths: dict[int, int]) -> None:
    for packet in packets:
        packet.duration = lengths.pop(packet.pts)
        container.mux(packet)


def _readable_scale(width: int, height: int) -> float:
    """How much a picture has to grow for text on it to be readable; 1 for all but small ones."""
    short, long = sorted((width, height))
    return _zoom(max(1, min(SHORT_SIDE / short, LONG_SIDE / long)))


def _zoom(scale: float) -> float:
    """A whole number for strong magnification, where every pixel becomes a visible square."""
    return scale if scale < 3 else float(np.ceil(scale))


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image

    return image.resize(size, Image.Resampling.NEAREST if size[0] >= 3 * image.width else Image.Resampling.LANCZOS)


def _stack(parts: list[Image.Image | None], even: bool = False) -> Image.Image:
    """Pictures one below the other, centred; `even` pads to even sides, which yuv420p needs."""
    parts = [part for part in parts if part]
    width, height = max(part.width for part in parts), sum(part.height for part in parts)
    if even:
        width, height = width + width % 2, height + height % 2

    image = Image.new("RGB", (width, height), PAPER)
    top = 0
    for part in parts:
        image.paste(part, ((width - part.width) // 2, top))
        top += part.height

    return image


def _caption(text: str, width: int, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """The strip with the sentence, as high as it needs to be."""
    if not text.strip():
        return None

    pad, row = round(font.size * 0.6), round(font.size * 1.35)
    lines = _wrap(text, font, width - 2 * pad, most=5)
    image = Image.new("RGB", (width, row * len(lines) + 2 * pad), PAPER)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((pad, pad + (number + 0.5) * row), line, fill=INK, font=font, anchor="lm")

    return image


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
    """Break a text into lines that fit a width in pixels; what does not fit in `most` lines ends in an ellipsis."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue

        lines += [""] if lines[-1] else []
        # Scripts without spaces and long names are broken where the line ends.
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter

    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], last + "…"]

    return lines


def _font(short_side: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, at a size that suits a picture with this short side in pixels."""
    return ImageFont.load_default(size=max(13, round(short_side / 28)))


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)}:{seconds % 60:04.1f}"
