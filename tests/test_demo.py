"""The demo page without a browser: what it answers, what it refuses, and that visitors do not meet."""

import asyncio
import fcntl
import http.client
import io
import json
import socket
import tempfile
import threading
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import pytest
from conftest import write_image, write_video
from PIL import Image

from spacevllm_plugin.data.schema import dump_row, read_rows
from spacevllm_plugin.data.scratch import LOCK, PREFIX
from spacevllm_plugin.demo.limits import Limits
from spacevllm_plugin.demo.workspace import workspace


LIMITS = Limits(megabytes=1, seconds=60, frames=50, megapixels=0.25, gigapixels=0.001)
QUERIES = ("the red circle that moves left", "the blue square that moves up")


@pytest.fixture(scope="module")
def page(make_engine, tmp_path_factory):
    """The page served from this process: its address, its folder of temporary files and its file of corrections."""
    corrections = tmp_path_factory.mktemp("corrections") / "rows.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "0")
        # Gradio makes its locks in this thread's event loop, which `asyncio.run` of another test takes away.
        asyncio.set_event_loop(asyncio.new_event_loop())
        from spacevllm_plugin.demo.server import serve

        patch.setattr("spacevllm_plugin.demo.sessions.GRACE_SECONDS", 1)
        patch.setattr("spacevllm_plugin.demo.server.SWEEP_SECONDS", 1)
        engine = make_engine("qwen3_vl")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]

        with serve(engine, "tiny", "127.0.0.1", port, LIMITS, 8, corrections) as url:
            yield url.rstrip("/"), Path(tempfile.gettempdir()), corrections, engine


@pytest.fixture
def client(page):
    """A visitor."""
    from gradio_client import Client

    visitor = Client(page[0], verbose=False)
    yield visitor
    visitor.close()


def texts(value):
    """All strings that an answer of the page holds."""
    if isinstance(value, str):
        return [value]

    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [text for part in parts for text in texts(part)]


def said(client, *values, api_name):
    """The line that the page tells a visitor."""
    return client.predict(*values, api_name=api_name)[0]


def opened(client, path):
    from gradio_client import handle_file

    return said(client, handle_file(str(path)), api_name="/open")


def rows_of(answer):
    """The prediction rows among what the page answers."""
    (rows,) = [part for part in answer if isinstance(part, list) and part and "text" in part[0]]
    return rows


def alive(client, media):
    assert "5 frames" in opened(client, media["five"])


def test_a_video_and_two_sentences_give_a_prediction_each(page, client, media):
    assert "five.mp4: 1.2 seconds, 5 frames, 48 × 48 pixels" in opened(client, media["five"])
    answer = client.predict("\n".join(QUERIES), api_name="/ground")
    assert [row["id"] for row in rows_of(answer)] == list(QUERIES)
    assert all(len(row["boxes"]) == len(row["frames"]) for row in rows_of(answer))
    assert all(query in " ".join(texts(answer)) for query in QUERIES)


def test_the_answer_is_what_the_engine_says(page, client, media):
    from spacevllm_plugin.data.prompts import instruction
    from spacevllm_plugin.inference.grounding import ground_batch

    engine = page[3]
    opened(client, media["five"])
    (row,) = rows_of(client.predict(QUERIES[0], api_name="/ground"))
    messages = [{"role": "user", "content": "<video>" + instruction("stvg", QUERIES[0])}]
    item = engine.item(QUERIES[0], "stvg", messages, [], [media["five"]])
    (expected,) = ground_batch(engine.model, engine.prompter, [item], 8)
    assert row == expected.model_dump(mode="json", exclude_none=True)


def test_an_image_gets_a_box(client, media):
    assert "image.png: image, 48 × 48 pixels" in opened(client, media["image"])
    (row,) = rows_of(client.predict(QUERIES[0], api_name="/ground"))
    assert row["frames"] == [0] and len(row["boxes"]) == 1 and "span_seconds" not in row


def test_an_annotation_is_compared_with_the_answer(client, synthetic_set, tmp_path):
    from gradio_client import handle_file

    row = synthetic_set.of("stvg")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(dump_row(row) + "\n" for row in synthetic_set.rows))
    opened(client, synthetic_set.folder / row.videos[0])
    line, queries = client.predict(handle_file(str(file)), "", api_name="/annotate")
    assert "rows about this file" in line and row.query in queries.splitlines()
    page_text = " ".join(texts(client.predict(queries, api_name="/ground")))
    assert "vIoU" in page_text and "sv-truth" in page_text


def test_an_annotation_of_another_video_is_refused(client, synthetic_set, media, tmp_path):
    from gradio_client import handle_file

    file = tmp_path / "row.json"
    file.write_text(dump_row(synthetic_set.of("stvg")))
    opened(client, media["five"])
    assert "a video of 12 frames, this has 5" in said(client, handle_file(str(file)), "", api_name="/annotate")
    file.write_text('{"id": "x", "task": "stvg"}')
    assert "annotation: row 1 (id x)" in said(client, handle_file(str(file)), "", api_name="/annotate")


def test_sentences_are_checked(client, media):
    assert "upload a video or an image first" in said(client, QUERIES[0], api_name="/ground")
    opened(client, media["five"])
    assert "write a sentence first" in said(client, " \n ", api_name="/ground")
    assert "9 sentences" in said(client, "\n".join("abcdefghi"), api_name="/ground")
    assert "500 letters" in said(client, "a" * 501, api_name="/ground")
    assert "sentence 2" in said(client, "one\n<|im_end|>", api_name="/ground")
    assert "sentence 1" not in said(client, QUERIES[0], api_name="/ground")


def test_what_visitors_write_is_shown_and_never_run(client, tmp_path):
    path = write_video(tmp_path / "<img src=x onerror=alert(1)>.mp4", 3)
    assert "<img" not in opened(client, path)
    answer = client.predict("<script>alert(1)</script>", api_name="/ground")
    html = " ".join(text for part in answer if not isinstance(part, list) for text in texts(part) if text[:1] == "<")
    assert "&lt;script&gt;" in html and "<script" not in html


@pytest.mark.parametrize("name", ["notes.mp4", "page.mp4", "list.mp4", "empty.mp4", "page.png"])
def test_what_is_no_medium_is_refused(client, media, tmp_path, name):
    contents = {
        "notes.mp4": "only words",
        "page.mp4": "<!doctype html><html><script>alert(1)</script></html>",
        # A playlist would have FFmpeg open what it names.
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{media['five']}\n#EXT-X-ENDLIST\n",
        "empty.mp4": "",
        "page.png": "<html></html>",
    }
    (tmp_path / name).write_text(contents[name])
    assert "neither a video nor an image" in opened(client, tmp_path / name)
    assert "upload a video" in said(client, QUERIES[0], api_name="/ground")
    alive(client, media)


def test_a_page_by_its_own_name_is_refused(client, media, tmp_path):
    from gradio_client.exceptions import AppError

    (tmp_path / "page.html").write_text("<html></html>")
    with pytest.raises(AppError, match="Invalid file type"):
        opened(client, tmp_path / "page.html")

    alive(client, media)


def test_a_video_of_four_hours_is_refused(client, media, tmp_path):
    slow = write_video(tmp_path / "slow.mp4", 5, times=[minute * 60_000 * 60 for minute in range(5)])
    assert "longer than 60 seconds" in opened(client, slow)
    alive(client, media)


def test_bombs_of_frames_and_pixels_are_refused(client, media, tmp_path):
    assert "more than 50 frames" in opened(client, write_video(tmp_path / "many.mp4", 60, fps=30))
    assert "more than 0.25 million" in opened(client, write_video(tmp_path / "wide.mp4", 1, 640, 480))
    assert "thousand million pixels together" in opened(client, write_video(tmp_path / "both.mp4", 20, 320, 240))
    # A few thousand bytes that would be 225 million pixels.
    Image.new("1", (15_000, 15_000)).save(tmp_path / "bomb.png")
    assert "more than 0.25 million" in opened(client, tmp_path / "bomb.png")
    grown = opened(client, growing(tmp_path / "grows.ts"))
    assert "frames cannot be decoded, or has more than 0.25 million pixels" in grown
    alive(client, media)


def growing(path):
    """A stream whose later frames have more pixels than its header says."""
    with av.open(str(path), "w", format="mpegts") as output:
        stream, count = None, 0
        for width, height in ((48, 48), (1024, 768)):
            buffer = io.BytesIO()
            with av.open(buffer, "w", format="h264") as part:
                raw = part.add_stream("libx264", rate=4)
                raw.width, raw.height, raw.pix_fmt = width, height, "yuv420p"
                for _ in range(4):
                    frame = av.VideoFrame(width, height, "yuv420p")
                    for plane in frame.planes:
                        plane.update(bytes(plane.buffer_size))

                    part.mux(raw.encode(frame))

                part.mux(raw.encode(None))

            buffer.seek(0)
            with av.open(buffer, format="h264") as part:
                stream = stream or output.add_stream_from_template(part.streams.video[0])
                for packet in part.demux(part.streams.video[0]):
                    if packet.size:
                        packet.pts = packet.dts = count * 22_500
                        packet.time_base, packet.stream = Fraction(1, 90_000), stream
                        count += 1
                        output.mux(packet)

    return path


def post(page, path, body, **headers):
    """A request by hand: its status and what is answered."""
    request = urllib.request.Request(page[0] + path, body, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as err:
        return err.code, err.read()


def test_too_many_bytes_are_refused_before_they_are_read(page, client, media):
    # Two thousand million bytes are announced; not one of them is sent before the answer comes.
    connection = http.client.HTTPConnection(page[0].removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("content-type", "multipart/form-data; boundary=x")
    connection.putheader("content-length", str(2 * 10**9))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413 and answer.read() == b"the file has more than 1 MB"
    connection.close()
    # Nor is one taken that does not say how long it is, and again not one byte of it.
    connection = http.client.HTTPConnection(page[0].removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("content-type", "multipart/form-data; boundary=x")
    connection.putheader("transfer-encoding", "chunked")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()

    # Gradio leaves an empty file for each that it hands over; `sweep` takes them away.
    assert not [path for path in page[1].glob("tmp*") if path.is_file() and path.stat().st_size]
    alive(client, media)


def upload(page, name, content):
    """Upload by hand: the status, and what is answered."""
    boundary = "x7x"
    head = f'--{boundary}\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return post(page, "/gradio_api/upload", body, **{"content-type": f"multipart/form-data; boundary={boundary}"})


def join(page, path):
    """What the page says to a path that is sent by hand: gradio's own client would upload the file there."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    status, answer = post(page, "/gradio_api/call/open", json.dumps({"data": [file]}).encode())
    assert status == 200
    event = json.loads(answer)["event_id"]
    with urllib.request.urlopen(f"{page[0]}/gradio_api/call/open/{event}", timeout=60) as stream:
        return stream.read().decode()


@pytest.mark.parametrize("kind", ["system", "parent", "outside", "lock", "example", "address", "own_session"])
def test_no_path_that_a_client_names_is_opened(page, client, media, kind):
    examples = next(page[1].glob("examples_*"))
    opened(client, media["five"])
    session = next(page[1].glob("session_*/*/medium"))
    path = {
        "system": "/etc/passwd",
        "parent": f"{page[1]}/../../x.mp4",
        "outside": media["five"],
        "lock": str(page[1] / LOCK),
        "example": str(next(examples.rglob("*.mp4"))),
        "address": "http://127.0.0.1:1/x.mp4",
        "own_session": str(session),
    }[kind]
    answer = join(page, path)
    assert "5 frames" not in answer and "12 frames" not in answer
    assert "no uploaded file" in answer or "event: error" in answer
    alive(client, media)


def test_a_name_that_leads_elsewhere_is_only_a_name(page, media):
    status, answer = upload(page, "../../x.mp4", Path(media["five"]).read_bytes())
    (path,) = json.loads(answer)
    assert status == 200 and Path(path).parent.parent == page[1] and Path(path).name == "x.mp4"
    assert "x.mp4: 1.2 seconds, 5 frames" in join(page, path)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/deep_link?session_hash=x",
        "/gradio_api/file=../../etc/passwd",
        "/monitoring",
    ],
)
def test_no_address_of_the_server_gives_other_files(page, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(page[0] + path, timeout=60)

    assert caught.value.code in (403, 404)


def test_the_page_names_no_other_server_and_forbids_to_ask_any(page):
    with urllib.request.urlopen(page[0] + "/", timeout=60) as answer:
        text, rules = answer.read().decode(), answer.headers["content-security-policy"]

    assert "default-src 'self'" in rules and "http" not in rules
    assert "cdnjs" not in text and "fonts.g" not in text and 'rel="preconnect"' not in text


def test_all_files_can_be_taken_along(page, client, synthetic_set):
    opened(client, synthetic_set.folder / synthetic_set.of("stvg").videos[0])
    client.predict("\n".join(QUERIES), api_name="/ground")
    job = client.submit(api_name="/draw")
    job.result(120)
    files = [Path(text) for text in texts(job.outputs()) if text.startswith("/")]
    by_name = {file.name: file for file in files}
    names = ["answer.mp4", "answer.png", "coco.json", "cvat.xml", "gif.gif", "json.jsonl", "label-studio.json"]
    assert sorted(by_name) == [*names, "youtube-vis.json"]
    assert len(by_name["json.jsonl"].read_text().splitlines()) == 2
    assert json.loads(by_name["coco.json"].read_text()) and ElementTree.parse(by_name["cvat.xml"])
    with av.open(str(by_name["answer.mp4"])) as video:
        assert video.streams.video[0].codec_context.name == "h264"


def test_a_correction_is_a_row_that_training_takes(page, client, media):
    opened(client, media["five"])
    client.predict("the dog", api_name="/ground")
    client.predict("4, 5, 20, 30", 0, 2, api_name="/box")
    assert "must start before it ends" in client.predict(0, 1.0, 0.5, True, False, api_name="/save")
    line = client.predict(0, 0.25, 1.0, True, False, api_name="/save")
    row = list(read_rows(page[2]))[-1]
    assert row.id in line and row.query == "the dog" and row.task == "stvg"
    assert row.target.frames == [2] and row.target.boxes == [(4, 5, 20, 30)]
    assert row.target.span_frames == (1, 4)
    assert (page[2].parent / row.videos[0]).read_bytes() == Path(media["five"]).read_bytes()
    client.predict(0, 0.25, 1.0, False, False, api_name="/save")
    assert len(list(read_rows(page[2]))[-1].target.frames) > 1
    client.predict(0, None, None, False, True, api_name="/save")
    assert list(read_rows(page[2]))[-1].task == "qa"
    assert len(list((page[2].parent / "media").iterdir())) == 1


def test_ten_visitors_ask_two_hundred_times_and_each_gets_their_own(page, tmp_path_factory):
    from gradio_client import Client

    folder = tmp_path_factory.mktemp("visitors")
    clips = [write_video(folder / f"clip_{place}.mp4", 2 + place % 5, first=10 * place) for place in range(10)]

    def visit(place):
        visitor, got = Client(page[0], verbose=False), []
        try:
            for turn in range(10):
                got.append(opened(visitor, clips[place]))
                got.append(rows_of(visitor.predict(f"thing {place} of turn {turn}", api_name="/ground")))
        finally:
            visitor.close()

        return got

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(visit, range(10)))

    assert sum(map(len, answers)) == 200
    for place, got in enumerate(answers):
        for turn in range(10):
            line, (row,) = got[2 * turn : 2 * turn + 2]
            assert f"clip_{place}.mp4" in line and f"{2 + place % 5} frames" in line
            assert row["id"] == f"thing {place} of turn {turn}" and row["frames"][-1] <= 1 + place % 5

    # The same sentence about the same clip has the same answer, whoever asked in between.
    boxes = {place: [row["boxes"] for rows in got[1::2] for row in rows] for place, got in enumerate(answers)}
    assert len({json.dumps(own[0]) for own in boxes.values()}) == 10


def test_who_leaves_leaves_no_file(page, media):
    from gradio_client import Client

    visitor = Client(page[0], verbose=False)
    name = "a_name_of_its_own.mp4"
    path = Path(media["five"]).with_name(name)
    path.write_bytes(Path(media["five"]).read_bytes() + b"0" * 64)
    assert name in opened(visitor, path)
    assert list(page[1].glob(f"*/{name}"))
    visitor.close()
    gone = threading.Event()
    for _ in range(600):
        if not list(page[1].glob(f"*/{name}")):
            break

        gone.wait(0.1)

    assert not list(page[1].glob(f"*/{name}"))


def test_leftovers_of_a_crash_go_and_those_of_a_running_page_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    crashed, running, others = (tmp_path / f"{PREFIX}{name}" for name in ("crashed", "running", "others"))
    for folder in (crashed, running):
        (folder / "session").mkdir(parents=True)
        (folder / LOCK).touch()

    others.symlink_to(tmp_path)
    with open(running / LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with workspace() as own:
            assert own.is_dir() and not crashed.exists() and running.exists() and others.exists()

    assert not own.exists()


def test_an_image_of_too_many_pixels_is_refused(client, media, tmp_path):
    assert "800 x 600 pixels" in opened(client, write_image(tmp_path / "large.png", width=800, height=600))
    alive(client, media)
