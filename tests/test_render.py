import json
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFont

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import AnnotationRow, PredictionRow
from spacevllm_plugin.data.video import VideoRef
from spacevllm_plugin.inference import render as module
from spacevllm_plugin.inference.render import (
    PREDICTION_COLOR,
    TARGET_COLOR,
    Tube,
    contact_sheet,
    draw_frame,
    render,
    render_video,
    tube_from_prediction,
    tube_from_target,
)


QUERY = "the red circle that moves to the right"


def write_video(path, width=48, height=48, num_frames=12, fps=2, times=None):
    """A grey clip; `times` in milliseconds make its frame rate vary."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8), format="rgb24")
            frame.pts = times[number] if times else round(1000 * number / fps)
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def decode(path):
    with av.open(str(path)) as container:
        frames = [(float(frame.time), frame.to_image()) for frame in container.decode(video=0)]
        stream = container.streams.video[0]
        return frames, stream.codec_context.name, stream.pix_fmt, float(stream.duration * stream.time_base)


def has_color(image, color, area=None):
    pixels = np.asarray(image.crop(area) if area else image).astype(int)
    return bool((np.abs(pixels - ImageColor.getrgb(color)).max(axis=-1) < 24).any())


@pytest.fixture
def tubes():
    target = Tube((3, 9), [3, 8], [(6, 16, 18, 28), (26, 16, 38, 28)], "ground truth", TARGET_COLOR)
    return [target, Tube((4, 11), [0, 11], [(4, 14, 20, 30), (40, 14, 48, 30)], "prediction", PREDICTION_COLOR)]


def test_video_has_all_frames_and_boxes_only_inside_the_span(tmp_path, tubes):
    out = tmp_path / "out.mp4"
    render_video(VideoRef.parse(write_video(tmp_path / "in.mp4")), tubes, out)

    frames, codec, pix_fmt, duration = decode(out)
    assert (codec, pix_fmt) == ("h264", "yuv420p")
    assert [time for time, _ in frames] == [number / 2 for number in range(12)]
    assert duration == pytest.approx(6.0)
    width, height = frames[0][1].size
    assert width == 384 and height > 384 and height % 2 == 0

    for number, (_, image) in enumerate(frames):
        picture = (0, 0, 384, 384)
        assert has_color(image, TARGET_COLOR, picture) == (3 <= number < 9)
        assert has_color(image, PREDICTION_COLOR, picture) == (4 <= number < 11)
        # The bars below the picture show both spans all the time.
        assert has_color(image, TARGET_COLOR, (0, 384, 384, height))
        assert has_color(image, PREDICTION_COLOR, (0, 384, 384, height))


def test_box_lies_where_the_interpolated_box_lies(tmp_path, tubes):
    out = tmp_path / "out.mp4"
    render_video(VideoRef.parse(write_video(tmp_path / "in.mp4")), tubes[:1], out)
    # Frame 4: a fifth of the way from x 6 to x 26, eight times as large.
    image = decode(out)[0][4][1]
    left, top = 8 * 10, 8 * 16
    assert has_color(image, TARGET_COLOR, (left, top + 40, left + 3, top + 60))
    assert not has_color(image, TARGET_COLOR, (left - 10, top + 40, left - 3, top + 60))
    assert not has_color(image, TARGET_COLOR, (left + 8, top + 40, left + 80, top + 60))


def test_varying_frame_rate_keeps_its_timestamps(tmp_path, tubes):
    times = [0, 100, 500, 600, 1000, 1700, 1800, 1900, 2500, 2600, 3000, 3100]
    source = write_video(tmp_path / "in.mp4", times=times)
    render_video(VideoRef.parse(source), tubes, tmp_path / "out.mp4")
    assert [time for time, _ in decode(tmp_path / "out.mp4")[0]] == pytest.approx([t / 1000 for t in times], abs=1e-3)


def test_clip_starts_at_zero_and_is_read_in_chunks(tmp_path, tubes, monkeypatch):
    calls, original = [], module.read
    monkeypatch.setattr(module, "CHUNK_BYTES", 3 * 48 * 48 * 3)
    monkeypatch.setattr(module, "read", lambda ref, frames: calls.append(list(frames)) or original(ref, frames))
    ref = VideoRef(path=write_video(tmp_path / "in.mp4"), clip=(2, 10))
    render_video(ref, tubes, tmp_path / "out.mp4")
    assert calls == [[2, 3, 4], [5, 6, 7], [8, 9]]
    frames = decode(tmp_path / "out.mp4")[0]
    assert [time for time, _ in frames] == [number / 2 for number in range(8)]
    assert [has_color(image, TARGET_COLOR, (0, 0, 384, 384)) for _, image in frames] == [False] + [True] * 6 + [False]


def test_large_video_keeps_its_size_and_odd_sides_become_even(tmp_path, tubes):
    image = Image.new("RGB", (641, 481), "grey")
    files = []
    for number in range(2):
        files.append(str(tmp_path / f"{number}.png"))
        image.save(files[-1])

    render_video(VideoRef(frames=tuple(files), fps=2), tubes, tmp_path / "out.mp4", caption=QUERY)
    width, height = decode(tmp_path / "out.mp4")[0][0][1].size
    assert width == 642 and height > 481 and height % 2 == 0


@pytest.mark.parametrize(("width", "height", "num_frames"), [(90, 160, 5), (160, 90, 1), (48, 480, 2)])
def test_odd_shapes(tmp_path, width, height, num_frames):
    tube = Tube((0, num_frames), [0], [(0, 0, width, height)], "ground truth", TARGET_COLOR)
    ref = VideoRef.parse(write_video(tmp_path / "in.mp4", width, height, num_frames))
    for name in ("out.mp4", "out.png"):
        render(ref, tube, tmp_path / name, QUERY * 5)

    frames = decode(tmp_path / "out.mp4")[0]
    assert len(frames) == num_frames
    assert min(frames[0][1].size) >= 360 and has_color(frames[0][1], TARGET_COLOR)
    assert has_color(Image.open(tmp_path / "out.png"), TARGET_COLOR)


def test_contact_sheet_shows_both_tubes(tmp_path, tubes):
    ref = VideoRef.parse(write_video(tmp_path / "in.mp4"))
    contact_sheet(ref, tubes, tmp_path / "both.png", QUERY)
    contact_sheet(ref, tubes[:1], tmp_path / "one.png", QUERY, columns=3)
    both, one = Image.open(tmp_path / "both.png"), Image.open(tmp_path / "one.png")
    assert has_color(both, TARGET_COLOR) and has_color(both, PREDICTION_COLOR)
    assert has_color(one, TARGET_COLOR) and not has_color(one, PREDICTION_COLOR)


def test_unknown_suffix(tmp_path, tubes):
    with pytest.raises(ValueError, match=r"out\.gif.*\.mp4 or \.png"):
        render(VideoRef(path="unused.mp4"), tubes[0], tmp_path / "out.gif")


@pytest.mark.parametrize("box", [(float("nan"), 0, 5, 5), (50, 50, 50, 60), (30, 0, 10, 5), (500, 500, 600, 600)])
def test_a_box_that_covers_nothing_is_left_out(box):
    image = Image.new("RGB", (100, 100))
    assert draw_frame(image, [(box, TARGET_COLOR, "x")]).tobytes() == image.tobytes()


@pytest.mark.filterwarnings("error")
def test_a_box_of_any_size_is_drawn_as_far_as_it_is_seen():
    tube = Tube((0, 1), [0], [(-1e308, 10.0, 1e308, 1e200)], "x", TARGET_COLOR)
    image = draw_frame(Image.new("RGB", (100, 100)), module._marks([tube], 0, 2.0))
    assert has_color(image, TARGET_COLOR)


def test_labels_stay_inside_and_apart(monkeypatch):
    places = []
    draw_label = module._draw_label
    monkeypatch.setattr(module, "_draw_label", lambda *args: places.append(draw_label(*args)) or places[-1])
    for box in [(0, 0, 400, 300), (380, 0, 400, 10), (0, 290, 5, 300), (100, 100, 110, 110)]:
        places.clear()
        draw_frame(Image.new("RGB", (400, 300)), [(box, TARGET_COLOR, "ground truth"), (box, "red", "prediction")])
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = places
        assert min(ax1, ay1, bx1, by1) >= 0 and max(ax2, bx2) <= 400 and max(ay2, by2) <= 300
        assert ax2 <= bx1 or bx2 <= ax1 or ay2 <= by1 or by2 <= ay1


def test_where_boxes_agree_both_are_visible():
    box = (20, 20, 80, 80)
    image = draw_frame(Image.new("RGB", (100, 100)), [(box, TARGET_COLOR, ""), (box, PREDICTION_COLOR, "")])
    assert has_color(image, TARGET_COLOR) and has_color(image, PREDICTION_COLOR)


def test_wrapping_loses_no_word_and_fits():
    font = ImageFont.load_default(size=14)
    text = "a sentence with averyveryverylongwordthatfitsnowhereatall and some more words behind it"
    lines = module._wrap(text, font, 120, most=50)
    assert all(font.getlength(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    short = module._wrap(text, font, 120, most=2)
    assert len(short) == 2 and short[1].endswith("…") and font.getlength(short[1]) <= 120


# The command.


@pytest.fixture
def dataset(tmp_path):
    write_video(tmp_path / "v.mp4")
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "i.png")
    media = {"width": 48, "height": 48, "fps": 2.0, "num_frames": 12}
    span = {"span_frames": [3, 9], "span_seconds": [1.5, 4.5]}
    boxes = {"frames": [3, 8], "boxes": [[6, 16, 18, 28], [26, 16, 38, 28]]}
    say = [{"role": "user", "content": "<video>When?"}]
    rows = [
        {"id": "s/1", "task": "stvg", "query": QUERY, "messages": say, "videos": ["v.mp4"], "media": media}
        | {"target": span | boxes},
        {"id": "q/1", "task": "qa", "messages": say, "videos": ["v.mp4"]},
        {"id": "t/1", "task": "vtg", "messages": say, "videos": ["v.mp4"], "media": media, "target": span},
        {"id": "r/1", "task": "rec", "messages": [{"role": "user", "content": "<image>Where?"}], "images": ["i.png"]}
        | {"media": {"width": 64, "height": 48}, "target": {"frames": [0], "boxes": [[5, 5, 30, 40]]}},
    ]
    preds = [
        {"id": "s/1", "span_frames": [4, 11], "frames": [0, 11], "boxes": [[4, 14, 20, 30], [30, 14, 46, 30]]},
        {"id": "t/1", "status": "unreadable"},
        {"id": "r/1", "frames": [0], "boxes": [[8, 8, 33, 44]]},
    ]
    for name, items in (("g.jsonl", rows), ("p.jsonl", preds)):
        (tmp_path / name).write_text("".join(json.dumps(item) + "\n" for item in items))
    return tmp_path, rows, preds


def command(folder, *more):
    return main(["render", "--data", f"{folder}/g.jsonl", "--out", f"{folder}/out", *more])


def names(folder):
    return sorted(path.name for path in (folder / "out").iterdir())


def test_tubes_from_rows(dataset):
    _, rows, preds = dataset
    target = tube_from_target(AnnotationRow.model_validate(rows[0]))
    assert (target.span_frames, target.frames, target.color) == ((3, 9), [3, 8], TARGET_COLOR)
    unreadable = tube_from_prediction(PredictionRow.model_validate(preds[1]))
    assert unreadable.span_frames is None and unreadable.frames == [] and "unreadable" in unreadable.label


def test_command_draws_every_row_with_a_target(dataset, capsys):
    folder = dataset[0]
    assert command(folder, "--pred", f"{folder}/p.jsonl") == 0
    assert names(folder) == ["r_1.png", "s_1.png", "t_1.png"]
    assert capsys.readouterr().out.splitlines() == [f"{folder}/out/{n}_1.png" for n in "str"]
    for name in ("r_1.png", "s_1.png"):
        image = Image.open(folder / "out" / name)
        assert has_color(image, TARGET_COLOR) and has_color(image, PREDICTION_COLOR)


def test_command_with_id_limit_and_video(dataset, capsys):
    folder = dataset[0]
    assert command(folder, "--id", "s/1", "--video") == 0
    assert names(folder) == ["s_1.mp4", "s_1.png"]
    assert len(decode(folder / "out" / "s_1.mp4")[0]) == 12
    assert command(folder, "--limit", "2") == 0
    assert names(folder) == ["s_1.mp4", "s_1.png", "t_1.png"]


def test_command_errors_are_one_line(dataset, capsys):
    folder = dataset[0]
    for more, said in ([("--id", "nope"), "no row with id 'nope'"], [("--id", "q/1"), "has a target"]):
        assert command(folder, *more) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_command_goes_on_after_a_bad_video(dataset, capsys):
    folder = dataset[0]
    (folder / "v.mp4").write_bytes(b"no video")
    assert command(folder) == 1
    error = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in error[:2]] == ["row s/1", "row t/1"]
    assert "2 of 3 rows" in error[2]
    assert names(folder) == ["r_1.png"]
