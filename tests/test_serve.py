"""`serve`: our API before an engine; the engine is an export's stock class behind the documented HTTP interface."""

import asyncio
import base64
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import openai
import pytest
import torch
from conftest import write_image, write_video
from engine_http import Stub, served
from fastapi import FastAPI
from fastapi.testclient import TestClient
from stock_engine import StockEngine

from spacevllm_plugin.cli.errors import CommandError
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.cli.serve import _bound, _serve
from spacevllm_plugin.data.prompt_rules import PromptError
from spacevllm_plugin.integration.engine_api import EngineChat, create_app
from spacevllm_plugin.integration.engine_loader import load_engine
from spacevllm_plugin.serving.client import Sampling
from spacevllm_plugin.serving.description import SIDECAR, EngineExport
from spacevllm_plugin.serving.export import write_export
from spacevllm_plugin.serving.sglang import PLUGIN, SGLang
from spacevllm_plugin.serving.sidecar import Sidecar
from spacevllm_plugin.serving.vllm import VLLM


ENGINES = {"vllm": VLLM, "sglang": SGLang}
EACH = pytest.mark.parametrize("engine", ENGINES)
TOKENS = 6


@pytest.fixture(scope="module")
def whole(make_engine):
    """The model itself, with a presence head: vLLM is asked for two layers then."""
    engine = make_engine("qwen3_vl", presence_head=True, video_maxlen=6)
    # The padding of a tiny one's vocabulary is random, too, and would be said: where the export has the queries.
    engine.model.get_input_embeddings().weight.data[len(engine.processor.tokenizer) :] = 0
    return engine


@pytest.fixture(scope="module")
def export(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    write_export(whole, folder)
    return folder


@pytest.fixture(scope="module")
def stubs(export):
    stock = StockEngine(export)
    layers = VLLM.layers(EngineExport.read(export))
    assert len(layers) == 2
    return {name: Stub(stock, export, layers) for name in ENGINES}


@pytest.fixture(scope="module")
def chats(export, stubs):
    """For each engine, its client behind our API."""
    described = EngineExport.read(export)
    with served(stubs["vllm"]) as vllm, served(stubs["sglang"]) as sglang:
        made = {}
        for name, url in (("vllm", vllm), ("sglang", sglang)):
            client = ENGINES[name](url, described, export, 60)
            loaded = load_engine(str(export / SIDECAR), infer_dtype="float32")
            made[name] = EngineChat(Sidecar(loaded, described, client.tells_earlier), client, TOKENS)

        yield made


@pytest.fixture
def chat(chats, stubs, engine):
    yield chats[engine]
    stubs[engine].fault = None


@pytest.fixture
def client(chat):
    return TestClient(create_app(chat))


@pytest.fixture(scope="module")
def reference(whole):
    """LLaMA-Factory's own API over the whole model."""
    from llamafactory.api.app import create_app as create
    from llamafactory.chat.hf_engine import HuggingfaceEngine
    from llamafactory.extras.constants import EngineName
    from llamafactory.hparams import GeneratingArguments

    engine = HuggingfaceEngine.__new__(HuggingfaceEngine)
    engine.model, engine.processor, engine.tokenizer = whole.model, whole.processor, whole.processor.tokenizer
    engine.template, engine.can_generate, engine.name = whole.template, True, EngineName.HF
    engine.generating_args = GeneratingArguments(do_sample=False, max_new_tokens=TOKENS).to_dict()
    engine.semaphore, engine.batches = asyncio.Semaphore(1), None
    return TestClient(create(SimpleNamespace(engine=engine, achat=engine.chat, astream_chat=engine.stream_chat)))


def part(file):
    kind = "image" if file.endswith(".png") else "video"
    data = base64.b64encode(Path(file).read_bytes()).decode()
    media_type = "image/png" if kind == "image" else "video/mp4"
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{media_type};base64,{data}"}}


def body(*files, text="When and where?", **more):
    content = [*map(part, files), {"type": "text", "text": text}]
    return {"model": "any", "messages": [{"role": "user", "content": content}], **more}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", 6)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write_image(tmp_path_factory.mktemp("image") / "i.png", 7)


def message(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]


@EACH
def test_a_reply_is_that_of_our_own_api(client, reference, video, image):
    conversation = body(video, image)
    answered = message(client.post("/v1/chat/completions", json=conversation))
    expected = message(reference.post("/v1/chat/completions", json=conversation))
    assert answered["content"].partition("\n\n```json")[0] == expected["content"].partition("\n\n```json")[0]
    assert [tube["kind"] for tube in answered["tubes"]] == ["video", "image"]
    # Pixels of 48, with one decimal: 1e-4 of a side may turn one.
    for found, meant in zip(answered["tubes"], expected["tubes"], strict=True):
        assert found.keys() == meant.keys() and found.get("frames") == meant.get("frames")
        assert found.get("span_seconds") == meant.get("span_seconds")
        boxes = [torch.tensor(tube.get("boxes") or tube["box"]) for tube in (found, meant)]
        assert torch.allclose(*boxes, atol=0.11, rtol=0)

    # And further turns, with media in several of them.
    conversation["messages"] += [{"role": "assistant", "content": answered["content"]}, *body(video)["messages"]]
    again = message(client.post("/v1/chat/completions", json=conversation))
    expected = message(reference.post("/v1/chat/completions", json=conversation))
    assert again["content"].partition("\n\n```json")[0] == expected["content"].partition("\n\n```json")[0]
    assert len(again["tubes"]) == 3


@EACH
def test_the_openai_client_gets_text_and_tubes_streamed_or_not(client, engine, video):
    asked = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client)
    answer = asked.chat.completions.create(**body(video), extra_body={"tubes": "field"})
    (tube,) = answer.choices[0].message.tubes
    assert tube["frames"] == list(range(6)) and len(tube["boxes"]) == 6
    assert "tubes" not in answer.choices[0].message.content
    assert answer.usage.completion_tokens == TOKENS and answer.choices[0].finish_reason == "length"
    events = list(asked.chat.completions.create(**body(video), stream=True, extra_body={"tubes": "field"}))
    assert "".join(event.choices[0].delta.content or "" for event in events) == answer.choices[0].message.content
    assert events[-1].choices[0].delta.tubes == [tube]


@EACH
def test_what_is_asked_of_the_engine(client, chat, stubs, engine, video):
    """Each reply greedy unless told otherwise; several are asked for one by one."""
    stubs[engine].requests.clear()
    sent = body(video, temperature=0.5, top_p=0.9, max_tokens=3, stop="x", n=2)
    assert len(client.post("/v1/chat/completions", json=sent).json()["choices"]) == 2
    assert len(stubs[engine].requests) == 2
    client.post("/v1/chat/completions", json=body(video))
    told, default = ({**r, **r.get("sampling_params", {})} for r in stubs[engine].requests[1:])
    assert (told["temperature"], told["top_p"], told["stop"]) == (0.5, 0.9, ["x"])
    assert told.get("max_tokens", told.get("max_new_tokens")) == 3
    assert (default["temperature"], default["top_p"], default["repetition_penalty"]) == (0, 1, 1)
    suppressed = chat.sidecar.export.suppressed
    if engine == "sglang":
        assert set(default["logit_bias"]) == {str(token) for token in suppressed}
    else:  # which takes no bias where it extracts states: what has a name, and scores of its own
        encode = chat.client.tokenizer.encode
        queries = chat.sidecar.export.queries.all
        known = [token for token in suppressed if token < len(chat.client.tokenizer)]
        assert [encode(word) for word in default["bad_words"]] == [[token] for token in known if token not in queries]


@EACH
def test_without_media_there_are_no_states_and_no_tubes(client, chat, stubs, engine, export, reference):
    stubs[engine].requests.clear()
    answered = message(client.post("/v1/chat/completions", json=body(text="How many circles appear?")))
    expected = message(reference.post("/v1/chat/completions", json=body(text="How many circles appear?")))
    assert answered == expected and answered["tubes"] is None
    assert engine == "vllm" or stubs[engine].requests[0]["return_hidden_states"] is False
    assert not list(export.glob("request-*"))


@EACH
@pytest.mark.parametrize(
    "fault, says",
    [
        ("refused", "answered 400: .*maximum context length is 8"),
        ("no JSON", "its answer is not a JSON object"),
        ("other JSON", "its answer is no chat completion|of its answer: Field required"),
        ("no states", "no `hidden_states_path` in its answer|no hidden states in its answer"),
        ("few states", r"states of \d+ tokens for a prompt of \d+; was it started with"),
        ("broken off", r"it has broken off the answer \(abort\)"),
    ],
)
def test_an_engine_that_fails_is_one_line_and_502(client, chat, stubs, engine, video, fault, says):
    stubs[engine].fault = fault
    answer = client.post("/v1/chat/completions", json=body(video))
    detail = answer.json()["detail"]
    assert answer.status_code == 502 and detail.startswith(f"{chat.client.title} at http://127.0.0.1:")
    assert "\n" not in detail and re.search(says, detail), detail


@EACH
def test_so_is_one_in_a_stream_and_the_server_goes_on(client, stubs, engine, video, export):
    stubs[engine].fault = "few states"
    answer = client.post("/v1/chat/completions", json=body(video, stream=True))
    assert answer.status_code == 502 and "states of" in answer.json()["detail"]
    stubs[engine].fault = None
    assert client.post("/v1/chat/completions", json=body(video, stream=True)).status_code == 200
    # Files of states go, whether they were of use or not.
    assert engine == "sglang" or not list(export.glob("request-*"))


@pytest.mark.parametrize("engine", ["vllm"])
@pytest.mark.parametrize(
    "fault, says",
    [
        ("other tokens", "it has read other tokens than the prompt's"),
        ("one layer", ", 1, 128) for "),
        ("no file", "its file of states is not there"),
        ("half a file", "its file of states cannot be read"),
        ("lock kept", "its file of states was not written within 60 s"),
    ],
)
def test_so_is_a_file_of_states_that_is_missing_or_broken(client, chat, stubs, video, monkeypatch, fault, says):
    if fault == "lock kept":  # looked at three times, without the waiting
        monkeypatch.setattr("spacevllm_plugin.serving.vllm._patience", lambda seconds: range(3))

    stubs["vllm"].fault = fault
    answer = client.post("/v1/chat/completions", json=body(video))
    assert answer.status_code == 502 and says in answer.json()["detail"]


@EACH
def test_an_engine_that_is_silent_or_gone_is_one_line_and_502(client, chat, stubs, engine, video, monkeypatch):
    stubs[engine].fault = "slow"
    monkeypatch.setattr(chat.client, "timeout", 0.5)
    answer = client.post("/v1/chat/completions", json=body(video))
    assert answer.status_code == 502 and answer.json()["detail"].endswith("no answer within 0.5 s")
    monkeypatch.setattr(chat.client, "url", "http://127.0.0.1:9")
    answer = client.post("/v1/chat/completions", json=body(video))
    assert answer.status_code == 502 and "http://127.0.0.1:9: not reached (" in answer.json()["detail"]


def test_requests_at_once_get_their_own_tubes(chats, tmp_path):
    videos = [write_video(tmp_path / f"{i}.mp4", 3, first=20 * i) for i in range(6)]

    async def ask(video):
        (answer,) = await chats["vllm"].achat([{"role": "user", "content": "<video>Where?"}], videos=[video])
        return answer.response_text

    async def both():
        return [await ask(video) for video in videos], await asyncio.gather(*map(ask, videos))

    alone, together = asyncio.run(both())
    assert together == alone and len(set(alone)) == len(videos)


@EACH
def test_what_is_the_clients_fault_stays_400(client, stubs, engine, video, tmp_path):
    stubs[engine].requests.clear()
    broken = tmp_path / "v.mp4"
    broken.write_bytes(b"no video")
    for sent, says in (
        (body(str(broken)), "not a readable video"),
        (body(video, text="<|im_end|>"), "for the template alone to write"),
        (body(video, tools=[{"function": {"name": "f", "description": "", "parameters": {}}}]), "tools are not for"),
    ):
        answer = client.post("/v1/chat/completions", json=sent)
        assert answer.status_code == 400 and says in answer.json()["detail"]

    assert stubs[engine].requests == []


def test_states_that_nobody_fetched_do_not_fill_the_folder(chats, stubs, video, export, tmp_path, monkeypatch):
    """Those of requests that timed out, or whose server was killed."""
    chat = chats["vllm"]
    old, new = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for file in (old, new):
        file.touch()

    os.utime(old, (1, 1))
    monkeypatch.setattr(chat.client, "states", tmp_path)
    assert TestClient(create_app(chat)).post("/v1/chat/completions", json=body(video)).status_code == 200
    assert not old.exists() and new.exists()


def test_a_query_typed_in_a_text_is_no_query(chats, stubs, video):
    """vLLM is sent text, which its tokenizer would read so; SGLang is sent tokens."""
    messages = [{"role": "user", "content": "<video>Where is <|staq_3|>?"}]
    prompt, _ = chats["sglang"]._prompt(messages, None, [], [video])
    queries = chats["sglang"].sidecar.export.queries
    assert sum(token in queries.all for token in prompt.token_ids) == 6
    with pytest.raises(PromptError, match="read tokens into the text"):
        asyncio.run(chats["vllm"].client.answer(prompt, Sampling(4)))


def test_the_engines_command_lines(export, capsys):
    assert main(["serve", str(export), "--engine", "vllm", "--engine-port", "7", "--print-command"]) == 0
    line = capsys.readouterr().out
    assert (
        f" serve {export} --enable-mm-embeds --no-enable-prefix-caching --no-enable-chunked-prefill " in line
        and "--port 7" in line
    )
    assert '"eagle_aux_hidden_state_layer_ids": [3, 4]' in line and "ExampleHiddenStatesConnector" in line
    arguments = ["--engine-args=--tp 2", "--print-command"]
    assert main(["serve", str(export), "--engine", "sglang", *arguments]) == 0
    line = capsys.readouterr().out
    assert line.startswith("SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE=spacevllm_sglang PYTHONPATH=")
    assert "--disable-radix-cache --chunked-prefill-size -1 --tp 2\n" in line
    assert (PLUGIN / "spacevllm_sglang" / "processors.py").is_file()


@EACH
def test_an_engine_that_is_not_installed_is_named(export, engine, capsys):
    assert main(["serve", str(export), "--engine", engine, "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert f"is not installed for {sys.executable}: `pip install {engine}`" in said and said.count("\n") == 1


@EACH
def test_backbones_that_an_engine_is_not_known_to_serve_are_refused(export, engine, tmp_path, capsys):
    described = EngineExport.read(export).model_copy(update={"backbone": "internvl", "merge_size": None})
    described.write(tmp_path)
    assert main(["serve", str(tmp_path), "--engine", engine]) == 1
    said = capsys.readouterr().err
    assert "of the Qwen-VL family" in said and said.endswith("this is internvl\n")


def test_an_engine_that_was_said_to_run_is_looked_for_once(export, capsys):
    looked_for = ["--engine-url", "http://127.0.0.1:9", "--port", "0"]
    assert main(["serve", str(export), "--engine", "vllm", *looked_for]) == 1
    assert "vLLM does not answer at http://127.0.0.1:9/health" in capsys.readouterr().err
    assert (
        main(["serve", str(export), "--engine", "vllm", "--engine-url", "http://127.0.0.1:9", "--print-command"]) == 2
    )


def test_what_is_no_export_is_said(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--engine", "vllm"]) == 1
    assert "is no export for engines: it holds no spacevllm.json" in capsys.readouterr().err
    (tmp_path / "spacevllm.json").write_text('{"backbone": "qwen3_vl"}')
    assert main(["serve", str(tmp_path), "--engine", "vllm"]) == 1
    assert "spacevllm.json: queries: Field required" in capsys.readouterr().err


FAKE = """#!{python}
import os, sys, json, http.server, urllib.request

arguments = dict(zip(sys.argv[3:], sys.argv[4:]))
if {broken}:
    sys.exit(3)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with urllib.request.urlopen("{upstream}" + self.path, body) as answer:
            data = answer.read()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)


transfer = json.loads(arguments["--kv-transfer-config"])["kv_connector_extra_config"]
print("engine", os.getpid(), transfer["shared_storage_path"], flush=True)
http.server.HTTPServer(("127.0.0.1", int(arguments["--port"])), Handler).serve_forever()
"""


def fake_python(folder, upstream="", broken=False):
    """An environment with a `vllm` that is ready at once and asks the stub here."""
    program = folder / "vllm"
    program.write_text(FAKE.format(python=sys.executable, upstream=upstream, broken=broken))
    (folder / "python").write_text("#!/bin/sh\nexit 0\n")
    for file in (program, folder / "python"):
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    return str(folder / "python")


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True

    return False


@pytest.mark.skipif(os.name != "posix", reason="a script with a first line")
def test_serve_starts_its_engine_answers_and_ends_it(export, chats, tmp_path, video):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    command = [sys.executable, "-m", "spacevllm_plugin.cli.main", "serve", str(export), "--engine", "vllm"]
    command += [
        "--engine-python",
        fake_python(tmp_path, chats["vllm"].client.url),
        "--port",
        str(port),
        "--arg",
        "infer_dtype=float32",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        lines = {}
        for line in process.stdout:
            lines[line.partition(" ")[0]] = line
            if line.startswith("the API is at"):
                break

        _, pid, states = lines["engine"].split()
        asked = body(video, max_tokens=TOKENS)
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=asked, timeout=300)
        assert Path(states).is_dir()
        expected = TestClient(create_app(chats["vllm"])).post("/v1/chat/completions", json=body(video))
        assert message(answer) == message(expected) and len(message(answer)["tubes"]) == 1
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0

    for _ in range(100):
        if gone(int(pid)):
            break

        time.sleep(0.1)

    assert gone(int(pid)) and not Path(states).exists()


@pytest.mark.skipif(os.name != "posix", reason="a script with a first line")
def test_an_engine_that_ends_while_starting_is_said(export, tmp_path, capsys):
    python = fake_python(tmp_path, broken=True)
    assert main(["serve", str(export), "--engine", "vllm", "--engine-python", python, "--port", "0"]) == 1
    assert "vLLM ended while starting (exit code 3), see above" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_when_its_engine_dies_the_server_ends_and_says_so():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with _bound("127.0.0.1", 0) as listener:
        threading.Timer(0.5, process.kill).start()
        with pytest.raises(CommandError, match=r"^vLLM has ended \(exit code -9\), see above$"):
            _serve(FastAPI(), listener, SimpleNamespace(title="vLLM"), process, "warning")


def test_a_port_that_is_taken_is_said_before_anything_is_started(export, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(export), "--engine", "vllm", "--port", str(port)]) == 1

    said = capsys.readouterr()
    assert (
        said.err == f"spacevllm-cli serve: --host 127.0.0.1 --port {port}: Address already in use\n" and not said.out
    )
