"""Every installed backend gives the frames that decoding the whole file gives, and a misspelt one is one line."""

import os
import struct
import subprocess
import sys
import weakref
from importlib import import_module

import av
import numpy as np
import pytest
from test_video import FILES, HEIGHT, OPEN_GOP, WIDTH, number_of, numbered, numbers, patch, write

from spacevllm_plugin.data.video import BackendError, MediaError, VideoRef, probe, read
from spacevllm_plugin.data.video.backends import BACKENDS, pyav


# Decoders agree to the bit; the conversion to RGB may round another way in another release of FFmpeg.
TOLERANCE = 2


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    try:
        import_module(f"spacevllm_plugin.data.video.backends.{request.param}")
    except (ImportError, OSError, RuntimeError) as err:
        pytest.skip(f"{request.param} is not installed here: {str(err).splitlines()[0]}")

    monkeypatch.setenv("SPACEVLLM_VIDEO_BACKEND", request.param)
    return request.param


def noise(number, width=WIDTH, height=HEIGHT):
    """A picture with all frequencies, which no neighbour of it resembles."""
    return np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)


def write_noise(path, count=40, size=(WIDTH, HEIGHT), **options):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={key: str(value) for key, value in options.items()})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p" if size[0] % 2 == size[1] % 2 == 0 else "yuv444p"
        for number in range(count):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(noise(number, *size), "rgb24")))

        output.mux(stream.encode(None))

    return VideoRef(str(path))


def decode_all(path):
    """Every frame from the first on, by nothing but PyAV's plain loop."""
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


CONTENTS = {
    "b_frames.mp4": {"g": 12, "bf": 3},
    "long_gop.mp4": {"g": 250, "bf": 3, "count": 120},
    "open_gop.mp4": OPEN_GOP,
    "open_gop.ts": OPEN_GOP,
    "gops.mkv": {"g": 12, "bf": 2},
    "odd.mp4": {"g": 12, "size": (97, 63)},
    "late.ts": {"g": 12, "bf": 2},  # starts at 1.4 s, as transport streams do
}


@pytest.mark.parametrize("name", CONTENTS)
def test_pixels_are_those_of_plain_decoding(backend, tmp_path, name):
    ref = write_noise(tmp_path / name, **CONTENTS[name])
    plain = decode_all(ref.path)
    wanted = [0, 1, 7, 11, 12, 13, 25, 39, len(plain) - 1]
    frames = read(ref, wanted)
    assert frames.ids == tuple(wanted) and frames.seconds == pytest.approx([frame / 25 for frame in wanted])
    for frame, image in zip(wanted, frames, strict=True):
        assert np.abs(np.asarray(image) - plain[frame]).max() <= TOLERANCE


def test_pictures_are_handed_on_as_they_come(backend, tmp_path, monkeypatch):
    """What is kept of one is made before the next but one is decoded: two threads, two pictures in memory."""
    monkeypatch.setenv("SPACEVLLM_VIDEO_THREADS", "2")
    ref = write(tmp_path / "a.mp4", g=12, bf=2)
    seen, most = [], []

    def each(image):
        seen.append(weakref.ref(image))
        most.append(sum(one() is not None for one in seen))
        return number_of(image)

    frames = read(ref, [30, 2, 2, 17], each)
    assert list(frames) == [30, 2, 2, 17] and frames.ids == (30, 2, 2, 17)
    assert len(read(ref, range(50), each)) == 50 and max(most) <= 2


@pytest.mark.parametrize("name", FILES)
def test_frames_of_every_kind_of_file(backend, tmp_path, name):
    ref = write(tmp_path / name, **FILES[name])
    count = FILES[name].get("count", 50)
    for wanted in (list(range(count)), list(range(count))[::7], [11, 12, 13, 23, 24, 25], [30, 2, 2, 17]):
        assert numbers(ref, wanted) == wanted


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_varying_rate(backend, tmp_path, name):
    times = [int(time) for time in np.random.default_rng(0).choice([17, 33, 40, 100, 400], 40).cumsum()]
    ref = write(tmp_path / name, count=40, times=times, g=12, bf=2)
    assert numbers(ref, range(40)) == list(range(40)) and numbers(ref, [39, 7, 20]) == [39, 7, 20]
    assert read(ref, [7]).seconds == pytest.approx([(times[7] - times[0]) / 1000], abs=1e-6)


def test_edit_list(backend, tmp_path):
    path = tmp_path / "cut.mp4"
    ref = write(path, g=12, bf=2)
    content = path.read_bytes()
    (ticks,) = struct.unpack_from(">i", content, content.index(b"elst") + 16)
    patch(path, b"elst", 12, struct.pack(">Ii", 34 * 40, ticks + 16 * 512))
    assert numbers(ref, [0, 20, 33]) == [16, 36, 49]


@pytest.mark.parametrize("degrees, matrix", [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_rotation(backend, tmp_path, degrees, matrix):
    path = tmp_path / "phone.mp4"
    ref = write(path, count=3)
    a, b, c, d = (value << 16 for value in matrix)
    patch(path, b"tkhd", 44, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))
    image = read(ref, [1])[0]
    assert image.size == (probe(ref).width, probe(ref).height)
    assert np.abs(np.asarray(image).astype(int) - np.rot90(numbered(1), -degrees // 90)).mean() < 8


def test_truncated_file(backend, tmp_path):
    path = tmp_path / "cut_off.mp4"
    ref = write(path, g=12, container={"movflags": "faststart"})
    os.truncate(path, path.stat().st_size * 3 // 4)
    assert numbers(ref, [0, 5]) == [0, 5]
    with pytest.raises(MediaError, match=r"cut_off\.mp4: frame 49 cannot be decoded"):
        read(ref, [0, 49])


def test_hd_colours(backend, tmp_path):
    """A file that says BT.709 looks the same to all."""
    path = tmp_path / "hd.mp4"
    ref = write_noise(path, count=3, **{"x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709"})
    plain = decode_all(ref.path)
    assert np.abs(np.asarray(read(ref, [1])[0]) - plain[1]).max() <= TOLERANCE


def test_unusable_names_are_one_line(tmp_path, monkeypatch):
    ref = write(tmp_path / "a.mp4", count=2)
    monkeypatch.setenv("SPACEVLLM_VIDEO_BACKEND", "opencv")
    with pytest.raises(
        BackendError, match="^SPACEVLLM_VIDEO_BACKEND=opencv: no such video backend; there are: pyav, "
    ):
        read(ref, [0])

    monkeypatch.setenv("SPACEVLLM_VIDEO_BACKEND", "")
    monkeypatch.setenv("SPACEVLLM_VIDEO_THREADS", "many")
    with pytest.raises(BackendError, match="^SPACEVLLM_VIDEO_THREADS=many: not a number of threads$"):
        read(ref, [0])


def test_backend_that_is_not_installed_is_one_line(tmp_path):
    write(tmp_path / "a.mp4", count=2)
    code = (
        "import sys; sys.modules['decord'] = None\n"  # as Python itself marks a module that cannot be imported
        "from spacevllm_plugin.data.video import BackendError, VideoRef, read\n"
        "try:\n    read(VideoRef(sys.argv[1]), [0])\n"
        "except BackendError as err:\n    print(err)"
    )
    environment = {**os.environ, "SPACEVLLM_VIDEO_BACKEND": "decord"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.mp4")], capture_output=True, text=True, env=environment
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("SPACEVLLM_VIDEO_BACKEND=decord: decord cannot be loaded (")


class Counted:
    """Counts the packets that go into the decoder, by their native frame."""

    def __init__(self, monkeypatch):
        self.frames = []
        packets = pyav.packets_from_keyframe

        def counted(container, stream):
            for packet in packets(container, stream):
                yield packet
                # The decoder asks for the next packet only after it has fed this one.
                if packet.pts is not None:
                    self.frames.append(round(float(packet.pts * packet.time_base) * 25))

        monkeypatch.setattr(pyav, "packets_from_keyframe", counted)


def test_no_group_is_decoded_twice_and_none_without_a_wanted_frame(tmp_path, monkeypatch):
    """Groups of 12 without B-frames: frame 30 needs the packets 24..30 and no other, 150 and 155 need 144..155."""
    ref = write(tmp_path / "long.mp4", count=240, g=12, bf=0, sc_threshold=0, container={"movflags": "faststart"})
    probe(ref)
    monkeypatch.setenv("SPACEVLLM_VIDEO_BACKEND", "pyav")
    counted = Counted(monkeypatch)
    assert numbers(ref, [30, 150, 155]) == [30, 150, 155]
    assert sorted(counted.frames) == [*range(24, 31), *range(144, 156)]


def test_open_groups_are_decoded_once(tmp_path, monkeypatch):
    ref = write(tmp_path / "open.mp4", **OPEN_GOP)
    probe(ref)
    monkeypatch.setenv("SPACEVLLM_VIDEO_BACKEND", "pyav")
    monkeypatch.setenv("SPACEVLLM_VIDEO_THREADS", "1")  # of two decoders each has one of the groups
    counted = Counted(monkeypatch)
    # Frame 11 is shown before keyframe 12 and refers to it: the packets of both groups in one go.
    assert numbers(ref, [10, 11, 12, 13, 14]) == [10, 11, 12, 13, 14]
    assert len(counted.frames) == len(set(counted.frames))


def test_threads_are_shared_by_the_workers(monkeypatch):
    """Processors divided by workers and ranks, at most two, at least one."""
    from spacevllm_plugin.data.video.backends import threads

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for workers, ranks, expected in ((1, "1", 2), (4, "1", 2), (4, "2", 1), (16, "1", 1)):
        monkeypatch.setattr(threads, "_dataloader_workers", lambda workers=workers: workers)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert threads.decode_threads() == expected
