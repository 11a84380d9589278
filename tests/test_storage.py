"""Object storage: what is read from a local S3 server is what is read from the disk, in as few bytes and requests as can be."""

import http.server
import json
import os
import struct
import subprocess
import sys
import tarfile
import threading
from contextlib import contextmanager
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest
from conftest import picture, write_image, write_video
from runs import tokenise, train

from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data import media_cache, storage
from spacevllm_plugin.data.media import locate, media_digest, video_source
from spacevllm_plugin.data.media_cache import MediaCache
from spacevllm_plugin.data.schema import AnnotationRow, RowError, parse_row, read_rows
from spacevllm_plugin.data.storage import StorageError, holds_secret, is_folder, is_remote, join
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.data.video import MediaError, VideoRef, image_size, probe, read, read_image, remote
from spacevllm_plugin.data.video.index_store import index_of, recent
from spacevllm_plugin.data.video.mp4 import read_table


pytest.importorskip("moto.server", reason="the S3 server of the tests: pip install 'moto[server]'")
pytest.importorskip("s3fs", reason="what reads s3://: pip install 's3fs'")
from object_store import KEYS, object_store  # noqa: E402


SECONDS = 30  # more than any of these tests waits for a server that comes back


@pytest.fixture(scope="module")
def store():
    with object_store() as store, pytest.MonkeyPatch.context() as patch:
        # botocore waits and asks again, too.
        for name, value in {**store.environment, storage.VARIABLE: str(SECONDS), "AWS_MAX_ATTEMPTS": "1"}.items():
            patch.setenv(name, value)

        yield store


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As a new process would be: nothing known of any file, no cache."""
    for name in (media_cache.FOLDER, media_cache.GIGABYTES):
        monkeypatch.delenv(name, raising=False)

    forget()


def forget():
    storage._known.clear()
    remote.recent.clear()
    recent.clear()


def film(path, frames=1000, gop=50, b_frames=0, sound=False, **options):
    """A film of 25 frames a second with a keyframe each `gop` frames."""
    with av.open(str(path), "w", **options) as output:
        coding = {"preset": "ultrafast", "crf": "26", "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0"}
        video = output.add_stream("libx264", rate=25, options={**coding, "bf": str(b_frames)})
        video.width, video.height, video.pix_fmt, video.thread_count = 160, 120, "yuv420p", 1
        audio = output.add_stream("aac", rate=16000, layout="mono") if sound else None
        base = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(base, 3 * number, axis=1), "rgb24")
            output.mux(video.encode(frame))
            if audio is not None:
                samples = np.random.default_rng(number).normal(0, 0.1, (1, 640)).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
                piece.sample_rate, piece.pts, piece.time_base = 16000, 640 * number, Fraction(1, 16000)
                output.mux(audio.encode(piece))

        output.mux(video.encode(None))
        if audio is not None:
            output.mux(audio.encode(None))

    return str(path)


FILMS = {
    "plain": {},
    "faststart": {"options": {"movflags": "+faststart"}},
    "b_frames": {"b_frames": 3},
    "sound": {"sound": True},
    "small_groups": {"gop": 12},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return {name: film(folder / f"{name}.mp4", **options) for name, options in FILMS.items()}


def weight(path, frames):
    """Bytes of the groups of pictures that native frames are in; counted by FFmpeg on the local file."""
    with av.open(path) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]

    groups = []
    for packet in packets:
        if packet.is_keyframe:
            groups.append([packet.pts, 0])

        groups[-1][1] += packet.size

    times = sorted(packet.pts for packet in packets)
    starts = [pts for pts, _ in groups]
    return sum(groups[n][1] for n in {np.searchsorted(starts, times[f], side="right") - 1 for f in frames})


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(np.array(x), np.array(y)) for x, y in zip(a, b))


def test_names():
    assert is_remote("s3://bucket/a.mp4") and not is_remote("/data/a.mp4") and not is_remote("C://a")
    assert join("/data", "a.mp4") == "/data/a.mp4" and join("s3://b/set", "/data/a.mp4") == "/data/a.mp4"
    assert join("s3://bkt/set/", "v/a.mp4") == "s3://bkt/set/v/a.mp4" and join("s3://bkt/set", "../a") == "s3://bkt/a"
    assert join("s3://bkt/set", "frames/") == "s3://bkt/set/frames/" and is_folder("s3://bkt/set/frames/")
    assert join("/data", "gs://bkt/a") == join("s3://bkt/set", "gs://bkt/a") == "gs://bkt/a"
    assert locate("a.mp4", ["/nowhere", "s3://bkt/set"]) == "s3://bkt/set/a.mp4"


@pytest.mark.parametrize(
    "address",
    [
        "https://me:word@host/a.mp4",
        "https://host/a.mp4?X-Amz-Signature=abc&X-Amz-Expires=3",
        "https://host/a.mp4?sv=1&sig=abc",
        "https://host/a.mp4?token=abc",
    ],
)
def test_addresses_with_secrets_are_refused_and_not_shown(address, tmp_path, capsys):
    assert holds_secret(address)
    row = {"id": "a", "task": "qa", "messages": [{"role": "user", "content": "<video>?"}], "videos": [address]}
    with pytest.raises(RowError, match="password or a signature") as caught:
        parse_row(row)

    assert caught.value.kind == "media-secret" and address[-8:] not in str(caught.value)
    with pytest.raises(StorageError, match="password or a signature") as caught:
        probe(VideoRef(address))

    assert "abc" not in str(caught.value) and "me:word" not in str(caught.value)
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    assert main(["check", str(file)]) == 1
    said = capsys.readouterr()
    assert "media-secret" in said.out and "abc" not in said.out + said.err and "word@" not in said.out + said.err
    assert "abc" not in (tmp_path / "rows.jsonl.media").read_text()


def test_harmless_addresses_are_not():
    for address in ("https://host/a.mp4?download=true", "hf://datasets/me/set@main/a.mp4", "s3://bkt/a@2.mp4"):
        assert not holds_secret(address)


def test_local_files_need_no_fsspec(tmp_path):
    write_set(tmp_path, SynthConfig(num_videos=1, seed=1))
    code = (
        "import sys; from spacevllm_plugin.cli.main import main\n"
        f"main(['check', {str(tmp_path / 'annotations.jsonl')!r}, '--workers', '1', '--decode'])\n"
        "from spacevllm_plugin.data.media import media_digest\n"
        f"assert media_digest([], {[str(path) for path in (tmp_path / 'videos').iterdir()]!r})\n"
        "print(sorted({'fsspec', 's3fs', 'aiohttp'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "[]", found.stdout + found.stderr


@pytest.mark.parametrize("name", FILMS)
def test_a_clip_costs_what_its_groups_weigh(store, films, name):
    expect_cost_of_a_clip(store, store.put(f"s3://media/{name}.mp4", films[name]), films[name])


def expect_cost_of_a_clip(store, address, path):
    """Of a film at an address, which also lies on the disk, a clip is read at the price of its groups."""
    local, wanted = index_of(path), list(range(300, 540, 8))
    store.log()
    assert index_of(address) == local
    header = sum(request.bytes for request in store.log())
    assert same(read(VideoRef(address), wanted), read(VideoRef(path), wanted))
    requests = store.log()
    fetched = sum(request.bytes for request in requests)
    assert 0.5 * weight(path, wanted) < fetched <= 1.2 * weight(path, wanted)
    assert {request.method for request in requests} == {"GET"} and len(requests) <= 6
    assert header < 150_000  # the film has megabytes


def test_scattered_frames_cost_their_groups(store, films):
    """One frame a group, from an index that another process made: all in one round of requests."""
    path, wanted = films["plain"], list(range(20, 1000, 200))
    address = store.put("s3://media/scattered.mp4", path)
    index_of(address)
    store.log()
    assert same(read(VideoRef(address), wanted), read(VideoRef(path), wanted))
    assert sum(request.bytes for request in store.log()) <= weight(path, wanted)


def test_a_clip_in_a_shard_costs_what_its_groups_weigh(store, films, tmp_path):
    """All films in one tar file at an address: of that, too, only what is wanted of a film is fetched."""
    talk = [{"role": "user", "content": "<video>" * len(films)}, {"role": "assistant", "content": "Films."}]
    row = {"id": "a", "task": "qa", "messages": talk, "videos": list(films.values())}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["pack-media", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out")]) == 0
    store.put_folder(tmp_path / "out", "s3://media/shards")
    (packed,) = read_rows(tmp_path / "out" / "rows.jsonl")
    addresses = [join("s3://media/shards", reference) for reference in packed.videos]
    storage.look(addresses)
    for path, address in zip(films.values(), addresses, strict=True):
        expect_cost_of_a_clip(store, address, path)


def everything(path):
    """The index of a file and its outer frames, or what is wrong with it."""
    try:
        index = index_of(path)
        timeline = index.info.timeline
        times = None if timeline.timestamps is None else timeline.timestamps.tolist()
        found = [index.info.width, index.start, index.tick, index.whole, index.portable, timeline.num_frames, times]
    except MediaError as err:
        return str(err).replace(path, "X")

    try:
        return found + [np.array(image).tobytes() for image in read(VideoRef(path), [0, timeline.num_frames - 1])]
    except MediaError as err:
        return [*found, str(err).replace(path, "X")]


def test_other_files_read_the_same(store, tmp_path):
    """Rates that vary, other containers, files that are cut off; sound or wrong, as from the disk."""
    whole = film(tmp_path / "whole.mp4", frames=60, gop=12, options={"movflags": "+faststart"})
    files = {
        "varying.mp4": write_video(
            tmp_path / "varying.mp4", 9, times=[0, 100, 700, 1500, 1600, 1700, 1900, 2500, 2600]
        ),
        "container.mkv": write_video(tmp_path / "container.mkv", 9),
        "stream.ts": write_video(tmp_path / "stream.ts", 9),
        "fragments.mp4": film(tmp_path / "fragments.mp4", 60, 12, options={"movflags": "frag_keyframe+empty_moov"}),
        "cut.mp4": tmp_path / "cut.mp4",
        "broken.mp4": tmp_path / "broken.mp4",
        "empty.mp4": tmp_path / "empty.mp4",
    }
    data = open(whole, "rb").read()
    files["cut.mp4"].write_bytes(data[: len(data) // 2])
    files["broken.mp4"].write_bytes(b"no video" * 100)
    files["empty.mp4"].write_bytes(b"")
    for name, path in files.items():
        address = store.put(f"s3://media/other/{name}", str(path))
        assert everything(address) == everything(str(path)), name


def test_a_varying_rate_is_read_from_the_table(store, tmp_path):
    """Listing all packets, as on the disk, would fetch the film."""
    times = np.cumsum(np.random.default_rng(1).integers(20, 90, 400)).tolist()
    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "10", "g": "50"})
        video.width, video.height, video.pix_fmt, video.thread_count = 160, 120, "yuv420p", 1
        video.codec_context.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, 160, 120), "rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            output.mux(video.encode(frame))

        output.mux(video.encode(None))

    address = store.put("s3://media/long.mp4", str(path))
    local = index_of(str(path))
    store.log()
    far = index_of(address)
    assert far.info.timeline.timestamps.tolist() == local.info.timeline.timestamps.tolist()
    assert (far.start, far.tick, far.whole) == (local.start, local.tick, local.whole)
    assert sum(request.bytes for request in store.log()) < os.path.getsize(path) / 3


def test_a_table_that_claims_too_much_costs_no_memory(films):
    """As a damaged file may: four thousand million frames, or as many times."""
    film = open(films["plain"], "rb").read()

    def table(box, place, *numbers):
        data = bytearray(film)
        struct.pack_into(f">{len(numbers)}I", data, data.index(box) + place, *numbers)
        return read_table(len(data), lambda begin, end: bytes(data[begin:end]))

    assert len(table(b"stsz", 0).shown) == 1000  # as it is
    assert table(b"stsz", 8, 1, 2**32 - 1) is None
    assert len(table(b"stts", 12, 2**32 - 1).shown) == 1000
    assert table(b"stsc", 16, 2**32 - 1) is not None


def test_images_and_folders_of_frames(store, tmp_path):
    large = write_image(tmp_path / "large.png", 5, width=1200, height=800)
    address = store.put("s3://media/large.png", large)
    store.log()
    assert image_size(address) == image_size(large)
    assert sum(request.bytes for request in store.log()) <= 65536
    assert np.array_equal(np.array(read_image(address)), np.array(read_image(large)))
    with pytest.raises(MediaError, match="none.png: no such image"):
        image_size("s3://media/none.png")

    (tmp_path / "frames").mkdir()
    for number in (10, 9, 0):
        write_image(tmp_path / "frames" / f"{number}.png", number)

    store.put_folder(tmp_path / "frames", "s3://media/frames")
    far, near = (VideoRef(f"{place}/frames/", fps=4.0) for place in ("s3://media", str(tmp_path)))
    assert probe(far) == probe(near) and same(read(far, [0, 1, 2]), read(near, [0, 1, 2]))
    row = {"messages": [{"role": "user", "content": "<video>?"}], "videos": ["frames/"], "id": "f", "task": "qa"}
    media = {"width": 48, "height": 48, "fps": 4.0, "num_frames": 3}
    source = VideoRef.parse(video_source(AnnotationRow(**row, media=media), 0, ["s3://media"]))
    assert source == VideoRef("s3://media/frames/", fps=4.0)


def test_many_files_are_listed_not_asked_for_one_by_one(store):
    addresses = [store.put(f"s3://media/many/{number:03}.bin", b"x" * (number + 1)) for number in range(60)]
    store.log()
    first = media_digest([], addresses)
    assert [request.method for request in store.log()] == ["GET"]  # the list
    assert media_digest([], addresses) == first and store.log() == []
    forget()
    assert media_digest([], addresses) == first  # it is the files', not the process's
    store.put(addresses[7], b"other")
    forget()
    assert media_digest([], addresses) != first
    forget()
    store.log()
    storage.look([*addresses[:3], "s3://media/many/none.bin"])
    assert sum(request.method == "HEAD" for request in store.log()) == 4
    assert storage.stat(addresses[7]).size == 5
    with pytest.raises(FileNotFoundError, match="none.bin: no such file"):
        storage.stat("s3://media/many/none.bin")


def test_the_same_state_by_head_and_by_list(store):
    address = store.put("s3://media/state/a.bin", b"abc")
    alone = storage.stat(address)
    forget()
    assert storage.listing("s3://media/state") == [address] and storage._known[address] == alone


def test_a_server_that_comes_back_is_waited_for(store):
    address = store.put("s3://media/back.bin", bytes(range(256)) * 1000)
    assert storage.stat(address).size == 256_000
    store.kill()
    back = threading.Timer(1.0, store.start)
    back.start()
    assert storage.read_ranges(address, [(0, 10), (1000, 1256)]) == [
        bytes(range(10)),
        store.objects[address][1000:1256],
    ]
    back.join()


def test_a_server_that_stays_away_is_one_line(store, monkeypatch):
    address = store.put("s3://media/away.bin", b"abc")
    monkeypatch.setenv(storage.VARIABLE, "0")
    store.kill()
    try:
        with pytest.raises(StorageError) as caught:
            read_image(address)
    finally:
        store.start()

    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{address}: not reached for 0 seconds (")
    monkeypatch.setenv(storage.VARIABLE, "soon")
    with pytest.raises(StorageError, match="soon: not a number of seconds"):
        storage.read("s3://nowhere/at/all")


def test_a_full_disk_is_not_taken_for_a_storage_that_is_away(store):
    with pytest.raises(StorageError, match="full.bin: cannot be copied to this machine .*No space left"):
        storage.download(store.put("s3://media/full.bin", b"abc"), "/dev/full")


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError, match=r"gs://media/a: .* not installed: `pip install 'spacevllm_plugin\[gcs\]'`"):
        storage.stat("gs://media/a")


REPOSITORY = "datasets/me/set"


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, in the ranges that are asked for, or whole if `ranges` is off; also as a hub's repository."""

    def __init__(self, *args, ranges=True, **kwargs):
        self.ranges = ranges
        super().__init__(*args, **kwargs)

    def translate_path(self, path):
        return super().translate_path(path.removeprefix(f"/{REPOSITORY}/resolve/main"))

    def send_head(self):
        if self.path.startswith("/denied.mp4"):
            self.send_error(403)
            return None

        if self.path == "/moved.mp4":
            self.send_response(302)
            self.send_header("Location", "/denied.mp4?X-Amz-Signature=abcdef")
            self.end_headers()
            return None

        return super().send_head()

    def hub_answer(self):
        """What the hub's API says; None where it is not asked."""
        path = self.path.partition("?")[0].removeprefix(f"/api/{REPOSITORY}")
        if path == self.path.partition("?")[0]:
            return None

        if not path.startswith("/tree/"):
            return {"id": "me/set", "sha": "0" * 40}

        return [
            {"type": "file", "path": name, "size": os.path.getsize(os.path.join(self.directory, name)), "oid": name}
            for name in os.listdir(self.directory)
        ]

    def do_GET(self):
        if (answer := self.hub_answer()) is not None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return

        asked = self.headers.get("Range")
        if not asked or not self.ranges:
            super().do_GET()
            return

        if self.server.busy:
            self.server.busy -= 1
            self.send_error(503)
            return

        begin, end = map(int, asked.removeprefix("bytes=").split("-"))
        with open(self.translate_path(self.path), "rb") as file:
            data = file.read()

        part = data[begin : end + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {begin}-{begin + len(part) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *args):
        pass


@contextmanager
def web_server(folder, busy=0, **options):
    """A server of a folder's files; the first `busy` ranges are answered by 503."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(folder), **options))
    server.busy = busy
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_web_server(films, monkeypatch):
    path = films["faststart"]
    with web_server(os.path.dirname(path), busy=2) as url:
        assert probe(VideoRef(f"{url}/faststart.mp4")) == probe(VideoRef(path))

    monkeypatch.setenv(storage.VARIABLE, "0")
    with web_server(os.path.dirname(path)) as url:
        with pytest.raises(StorageError, match="denied.mp4: the storage does not let us in .*403"):
            probe(VideoRef(f"{url}/denied.mp4"))

        with pytest.raises(StorageError, match="moved.mp4: the storage does not let us in .*403") as caught:
            probe(VideoRef(f"{url}/moved.mp4"))

        assert "abcdef" not in str(caught.value)  # where we were sent on to lets in whoever knows it
        address = f"{url}/faststart.mp4"
        assert probe(VideoRef(address)) == probe(VideoRef(path))
        assert same(read(VideoRef(address), [5, 400]), read(VideoRef(path), [5, 400]))
        with pytest.raises(MediaError, match="none.mp4: no such file"):
            probe(VideoRef(f"{url}/none.mp4"))

    forget()
    with pytest.raises(StorageError, match="not reached"):  # not "no such file": nobody said so
        probe(VideoRef(address))

    with web_server(os.path.dirname(path), ranges=False) as url:
        with pytest.raises(StorageError, match="whole files only"):
            probe(VideoRef(f"{url}/faststart.mp4"))


def test_the_hub(films, tmp_path):
    """`hf://`, in a process that takes another server for the hub."""
    path = films["faststart"]
    code = (
        "import sys, hashlib; from spacevllm_plugin.data.video import VideoRef, read\n"
        "for place in sys.argv[1:]:\n"
        "    pictures = read(VideoRef(place), [5, 400])\n"
        "    print(hashlib.sha256(b''.join(picture.tobytes() for picture in pictures)).hexdigest())"
    )
    with web_server(os.path.dirname(path)) as url:
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        places = [path, f"hf://{REPOSITORY}/faststart.mp4"]
        found = subprocess.run([sys.executable, "-c", code, *places], capture_output=True, text=True, env=environment)

    near, far = found.stdout.split() or (found.stderr, None)
    assert near == far


def test_the_cache_is_bounded_and_a_hit_fetches_nothing(store, films, tmp_path, monkeypatch):
    address, wanted = store.put("s3://media/cached.mp4", films["plain"]), list(range(300, 400, 8))
    monkeypatch.setenv(media_cache.FOLDER, str(tmp_path / "cache"))
    expected = read(VideoRef(films["plain"]), wanted)
    store.log()
    assert same(read(VideoRef(address), wanted), expected)
    first = store.log()
    forget()
    assert same(read(VideoRef(address), wanted), expected)
    assert [request.method for request in store.log()] == ["HEAD"] and len(first) > 1

    # Another run, with room for half of it: nothing is wrong, and it never holds more.
    fetched = sum(request.bytes for request in first)
    monkeypatch.setenv(media_cache.FOLDER, str(tmp_path / "small"))
    monkeypatch.setenv(media_cache.GIGABYTES, str(fetched / 2 / 1e9))
    for number in range(3):
        forget()
        copy = store.put(f"s3://media/cached{number}.mp4", films["plain"])
        assert same(read(VideoRef(copy), wanted), expected)
        assert sum(path.stat().st_size for path in (tmp_path / "small").glob("??/*")) <= fetched / 2

    # A file that was replaced has other entries.
    store.put(address, films["b_frames"])
    forget()
    monkeypatch.setenv(media_cache.FOLDER, str(tmp_path / "cache"))
    assert same(read(VideoRef(address), wanted), read(VideoRef(films["b_frames"]), wanted))


def test_a_cache_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="media_cache_dir: .*cannot be used"):
        MediaCache.create(str(tmp_path / "file" / "deeper"), 1)


def child(address, place):
    return read(VideoRef(address), [0, place])[1].tobytes()


def test_forked_processes_read_too(store, films):
    """Dataloader workers fork from a process that has read already: its connections are not theirs."""
    import multiprocessing

    address = store.put("s3://media/forked.mp4", films["plain"])
    places = [30, 330, 630, 930]
    expected = [child(films["plain"], place) for place in places]
    assert child(address, 30) == expected[0]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(child, [(address, place) for place in places]) == expected


# Check, predict, train.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four videos with several rows each, on the disk."""
    folder = tmp_path_factory.mktemp("storage") / "data"
    write_set(folder, SynthConfig(num_videos=4, seed=4, tasks=("stvg", "vtg", "rec", "qa")))
    return folder


@pytest.fixture(scope="module")
def bucket(store, data):
    """The same at an address; the server's log starts behind it."""
    address = store.put_folder(data, "s3://sets/synth")
    store.log()
    return address


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from spacevllm_plugin.integration.engine_loader import load_engine

    folder = tmp_path_factory.mktemp("storage")
    make_tiny("qwen3_vl", folder / "base")
    engine = load_engine(str(folder / "base"), infer_dtype="float32")
    engine.model.save_pretrained(folder / "model")
    engine.processor.save_pretrained(folder / "model")
    return folder / "model"


def test_check_reads_from_s3_and_asks_once_a_file(store, bucket, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = list(read_rows(data / "annotations.jsonl"))
    files = {path for row in rows for path in [*(row.images or []), *(row.videos or [])]}
    assert main(["check", str(data / "annotations.jsonl"), "--json", "near.json", "--memory", "near"]) == 0
    options = ["--workers", "1", "--decode", "--video-maxlen", "6"]
    store.log()
    assert main(["check", f"{bucket}/annotations.jsonl", "--json", "far.json", *options]) == 0
    requests = store.log()
    assert json.loads((tmp_path / "far.json").read_text()) == json.loads((tmp_path / "near.json").read_text())
    heads = [request for request in requests if request.method == "HEAD" and not request.path.endswith(".jsonl")]
    assert len(heads) == len({request.path for request in heads}) == len(files) < len(rows)
    memory = (tmp_path / "annotations.jsonl.media").read_text()
    assert memory.count("s3://sets/synth/") == len(files) and KEYS["AWS_SECRET_ACCESS_KEY"] not in memory

    # The next run remembers: one list, or a question a file; nothing is read.
    forget()
    assert main(["check", f"{bucket}/annotations.jsonl", *options]) == 0
    assert f"{len(files)} remembered" in capsys.readouterr().out
    assert not [r for r in store.log() if r.method == "GET" and r.path.endswith((".mp4", ".png", ".jpg"))]


def test_check_ends_with_one_line_where_nobody_answers(store, bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(storage.VARIABLE, "0")
    file = tmp_path / "rows.jsonl"
    store.kill()
    try:
        file.write_bytes(store.objects[f"{bucket}/annotations.jsonl"])
        assert main(["check", str(file), "--media-dir", bucket, "--workers", "1"]) == 1
    finally:
        store.start()

    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"spacevllm-cli check: {bucket}/") and "not reached" in said
    assert main(["check", str(file), "--media-dir", bucket, "--workers", "1"]) == 0


@pytest.fixture(scope="module")
def shards(store, bucket):
    """The set packed from an address to an address; the folder of its rows and shards."""
    assert main(["pack-media", f"{bucket}/annotations.jsonl", "--out", "s3://sets/packed", "--shard-mb", "0.02"]) == 0
    for address in storage.listing("s3://sets/packed"):
        store.put(address, store.get(address))  # so that a server which starts anew has them

    return "s3://sets/packed"


def test_packing_at_addresses_is_packing_on_the_disk(store, shards, data, tmp_path):
    assert main(["pack-media", str(data / "annotations.jsonl"), "--out", str(tmp_path), "--shard-mb", "0.02"]) == 0
    files = sorted(tmp_path.iterdir())
    assert len(files) > 3
    for file in files:
        assert store.get(f"{shards}/{file.name}") == file.read_bytes(), file.name

    # Packed anew from shards at an address into one: each medium keeps its bytes, and its name's suffix.
    assert main(["pack-media", f"{shards}/annotations.jsonl", "--out", str(tmp_path / "one")]) == 0
    with tarfile.open(tmp_path / "one" / "annotations-000000.tar") as tar:
        again = {name: tar.extractfile(name).read() for name in tar.getnames() if not name.endswith(".jsonl")}

    rows = list(read_rows(data / "annotations.jsonl"))
    files = {data / path for row in rows for path in [*(row.images or []), *(row.videos or [])]}
    media = {path.read_bytes(): path.suffix for path in files}
    assert {body: os.path.splitext(name)[1] for name, body in again.items()} == media


def test_check_and_predict_from_shards_at_an_address(store, shards, model, local_predictions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store.log()
    assert main(["check", f"{shards}/annotations.jsonl", "--workers", "1", "--fix", f"{shards}/good.jsonl"]) == 0
    asked = [request.path for request in store.log() if request.method == "HEAD" and request.path.endswith(".tar")]
    assert len(asked) == len(set(asked)) > 1  # a shard, not a medium
    assert len(store.get(f"{shards}/good.jsonl").splitlines()) == len(local_predictions.splitlines())
    assert main(predict(model, f"{shards}/annotations.jsonl", tmp_path / "p.jsonl")) == 0
    assert (tmp_path / "p.jsonl").read_bytes() == local_predictions


def test_scores_pictures_and_exports_of_what_lies_at_addresses(store, bucket, data, local_predictions, tmp_path):
    (tmp_path / "p.jsonl").write_bytes(local_predictions)
    far = store.put("s3://results/p.jsonl", local_predictions)
    for place, rows, pred in (
        (tmp_path, data / "annotations.jsonl", tmp_path / "p.jsonl"),
        ("s3://results", f"{bucket}/annotations.jsonl", far),
    ):
        items = f"{place}/items.jsonl", "--out", f"{place}/scores.json"
        assert main(["evaluate", "stvg", "--gt", str(rows), "--pred", str(pred), "--items", *items]) == 0
        files = ["--data", str(rows), "--pred", str(pred)]
        assert main(["export-tubes", *files, "--format", "coco", "--out", f"{place}/tubes.json"]) == 0
        out = tmp_path / ("far" if isinstance(place, str) else "near")
        assert main(["render", *files, "--limit", "2", "--out", str(out)]) == 0

    for name in ("items.jsonl", "scores.json", "tubes.json"):
        assert store.get(f"s3://results/{name}") == (tmp_path / name).read_bytes(), name

    pictures = {out: {path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("far", "near")}
    assert len(pictures["near"]) == 2 and pictures["far"] == pictures["near"]


def test_ground_reads_at_addresses(store, bucket, shards, data, model, capsys):
    def ground(video):
        arguments = ["--model", str(model), "--arg", "infer_dtype=float32", "--arg", "video_maxlen=6"]
        assert main(["ground", *arguments, "--video", video, "--query", "the red circle", "--json"]) == 0
        return capsys.readouterr().out

    storage.download(f"{shards}/annotations.jsonl", str(model.parent / "packed.jsonl"))
    old, new = (
        next(row.videos[0] for row in read_rows(file) if row.videos)
        for file in (data / "annotations.jsonl", model.parent / "packed.jsonl")
    )
    assert ground(join(shards, new)) == ground(str(data / old)) != ""


def test_the_annotator_reads_at_addresses(store, bucket, data, tmp_path):
    from test_unistg_annotator import Scripted

    from spacevllm_plugin.unistg.annotator import Annotator
    from spacevllm_plugin.unistg.rows import Analyzed
    from spacevllm_plugin.unistg.stage import run_stage

    source = next(row for row in read_rows(data / "annotations.jsonl") if row.task == "vtg")
    row = Analyzed(id="a", source=source, objects=["red circle"]).model_dump_json(exclude_none=True)
    (tmp_path / "in.jsonl").write_text(row + "\n")
    for folder, out in ((data, "near.jsonl"), (bucket, "far.jsonl")):
        run_stage(Annotator(Scripted(label=0), folder, {}), tmp_path / "in.jsonl", tmp_path / out)

    assert (tmp_path / "far.jsonl").read_bytes() == (tmp_path / "near.jsonl").read_bytes() != b""


def test_what_cannot_be_put_at_its_address_leaves_the_others_as_they_were(store, data, tmp_path, capsys):
    (tmp_path / "scores.json").write_text("old")
    rows = str(data / "annotations.jsonl")
    (tmp_path / "none.jsonl").write_text("")
    outputs = ["--items", "s3://nowhere/items.jsonl", "--out", str(tmp_path / "scores.json")]
    assert main(["evaluate", "stvg", "--gt", rows, "--pred", str(tmp_path / "none.jsonl"), *outputs]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        said == "spacevllm-cli evaluate: s3://nowhere/items.jsonl: there is no such bucket or repository to write to"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.jsonl", "scores.json"]
    assert (tmp_path / "scores.json").read_text() == "old"


ADDRESS = "s3://bucket/it"
MODEL = ["--model", "m"]


@pytest.mark.parametrize(
    "command",
    [
        ["render", "--data", "d.jsonl", "--out", ADDRESS],
        ["benchmark", "hcstvg-v1", *MODEL, "--data-dir", ADDRESS, "--out", "o"],
        ["unistg", "refine", "--out", "o.jsonl", "--data", ADDRESS],
        ["convert", "tacos", "--split", "test", "--out", "o.jsonl", "--annotations", ADDRESS],
        ["ground", *MODEL, "--video", "v.mp4", "--query", "q", "--render", ADDRESS],
        ["demo", *MODEL, "--corrections", ADDRESS],
        ["check", "d.jsonl", "--memory", ADDRESS],
        ["predict", "--data", "d.jsonl", "--out", "o.jsonl", "--model", ADDRESS],
        ["predict", *MODEL, "--data", ADDRESS, "--out", ADDRESS],
        ["evaluate", "stvg", "--gt", "g", "--pred", "p", "--out", "https://host/it"],
    ],
    ids=lambda command: command[0],
)
def test_what_takes_no_address_says_so(command, tmp_path, monkeypatch, capsys):
    """In one line that names it, and before anything is done; nothing is made in a folder `s3:`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").write_text("")
    with pytest.raises(SystemExit) as left:
        raise SystemExit(main(command))

    said = capsys.readouterr().err.strip().splitlines()[-1]
    address = next(part for part in command if "://" in part)
    assert left.value.code in (1, 2) and said.startswith(f"spacevllm-cli {command[0]}") and address in said
    assert command[command.index(address) - 1] in said
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]


def predict(model, data, out, *more):
    return [
        *("predict", "--model", str(model), "--data", str(data), "--out", str(out), "--batch-size", "2"),
        *("--max-new-tokens", "4", "--arg", "infer_dtype=float32", "--arg", "video_maxlen=6", *more),
    ]


@pytest.fixture(scope="module")
def local_predictions(model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("predictions") / "p.jsonl"
    assert main(predict(model, data / "annotations.jsonl", out)) == 0
    return out.read_bytes()


def test_predict_from_s3_to_s3_writes_the_same_file(store, bucket, model, local_predictions, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    out = "s3://results/run/p.jsonl"
    store.put("s3://results/any", b"")
    assert main(predict(model, f"{bucket}/annotations.jsonl", out, "--arg", f"media_cache_dir={tmp_path / 'c'}")) == 0
    assert store.get(out) == local_predictions
    assert not list((tmp_path / "home").rglob("*.jsonl"))
    # Half of it was there: gone on with, not begun anew.
    half = b"".join(local_predictions.splitlines(keepends=True)[:3])
    store.put(out, half)
    assert main(predict(model, f"{bucket}/annotations.jsonl", out)) == 0
    assert store.get(out) == local_predictions
    secret = KEYS["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_predict_survives_a_server_that_dies_in_the_middle(
    store, bucket, model, local_predictions, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv(storage.VARIABLE, "0")
    out = tmp_path / "p.jsonl"
    arguments = predict(model, f"{bucket}/annotations.jsonl", out)
    store.die_after(12)
    try:
        assert main(arguments) == 1
        assert store.is_dead, capsys.readouterr().err
    finally:
        store.kill()
        store.start()

    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("spacevllm-cli predict: s3://sets/synth/") and "not reached" in said
    written = out.read_bytes()
    assert 0 < written.count(b"\n") < local_predictions.count(b"\n") and b"failed" not in written
    assert main(arguments) == 0
    assert out.read_bytes() == local_predictions


def test_a_file_that_is_not_there_fails_its_row_alone(store, bucket, model, data, tmp_path):
    rows = [json.loads(line) for line in (data / "annotations.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["task"] == "stvg"][:2]
    rows[0]["videos"] = [f"{bucket}/videos/none.mp4"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(predict(model, tmp_path / "rows.jsonl", tmp_path / "p.jsonl", "--media-dir", bucket)) == 0
    first, second = map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines())
    assert (first["status"], second["status"]) == ("failed", "ok") or second["status"] == "unreadable"
    assert first["error"] == f"{bucket}/videos/none.mp4: no such file"


def losses(log):
    return [{name: value for name, value in entry.items() if "loss" in name} for entry in log if "loss" in entry]


STEPS = {"dataset": "rows", "max_steps": 5, "per_device_train_batch_size": 2, "dataloader_num_workers": 2}


def dataset(folder, file):
    """A dataset_dir whose rows lie elsewhere."""
    folder.mkdir()
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": file, "formatting": "spacevllm"}}))
    return folder


def test_training_from_s3_is_training_from_the_disk(store, bucket, shards, data, model, tmp_path):
    base = model.parent / "base"
    near = train(base, dataset(tmp_path / "near", str(data / "annotations.jsonl")), tmp_path / "out", **STEPS)
    store.log()
    cache = {"media_cache_dir": str(tmp_path / "cache"), "media_cache_gb": 0.01}
    folder = dataset(tmp_path / "far", f"{bucket}/annotations.jsonl")
    far = train(base, folder, tmp_path / "out_far", **STEPS, **cache)
    assert len(losses(near)) == 5 and losses(far) == losses(near)
    rows = sum(1 for _ in read_rows(data / "annotations.jsonl"))
    files = {path for path in store.objects if path.startswith(bucket) and path.endswith((".mp4", ".png", ".jpg"))}
    heads = [request for request in store.log() if request.method == "HEAD"]
    assert len([request for request in heads if not request.path.endswith(".jsonl")]) <= len(files) < rows

    shard = train(base, dataset(tmp_path / "shards", f"{shards}/annotations.jsonl"), tmp_path / "out_shards", **STEPS)
    assert losses(shard) == losses(near)

    # What the first run has read is here now.
    forget()
    again = train(base, folder, tmp_path / "again", **STEPS, **cache)
    assert losses(again) == losses(near)
    assert not [r for r in store.log() if r.method == "GET" and r.path.endswith((".mp4", ".png", ".jpg"))]
    secret = KEYS["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_training_without_an_answer_ends_and_skips_nothing(store, bucket, data, model, tmp_path, monkeypatch, capfd):
    """Once all is tokenised, in a dataloader's worker: `bad_media: skip` is not for this."""
    monkeypatch.setenv(storage.VARIABLE, "0")
    folder, base = dataset(tmp_path / "far", f"{bucket}/annotations.jsonl"), model.parent / "base"
    tokenise(base, folder, tmp_path / "none", dataset="rows")
    store.die_after(2)
    forget()
    try:
        with pytest.raises(StorageError, match="not reached for 0 seconds") as caught:
            train(base, folder, tmp_path / "out", **STEPS, bad_media="skip", overwrite_cache=False)

        assert store.is_dead, caught.value
    finally:
        store.kill()
        store.start()

    said = capfd.readouterr()
    assert "Skipped" not in said.out + said.err
    assert "DataLoader worker" in str(caught.value)
    assert (
        str(caught.value).strip().splitlines()[-1].startswith(f"spacevllm_plugin.data.storage.StorageError: {bucket}/")
    )
