"""`unistg analyze` against a real server process with scripted misbehaviour."""

import os
import threading
import time

import pytest
from unistg_parts import read_lines, rejected, server, vtg, write_lines

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.unistg.analyzer import SCHEMA, Answer, parse_answer


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def analyze(url, data, out, *more):
    return main(
        [
            *("unistg", "analyze", "--data", str(data), "--out", str(out), "--base-url", url, "--model", "tiny"),
            *("--retries", "3", "--backoff", "0.05", "--timeout", "8", "--concurrency", "4", *more),
        ]
    )


CAPTIONS = {
    "plain": "the man in red that runs",
    "fenced": "fenced cat that sleeps",
    "limited": "limited dog that barks",
    "flaky": "flaky girl that sings",
    "malformed": "malformed boy that reads",
    "slow": "slow horse that walks",
    "page": "page bird that flies",
    "squeezed": "squeezed cat that jumps",
    "nothing": "nothing that can be boxed",
    "wrong": "wrong answer that stays wrong",
    "list": "list that is no object",
    "half": "half a character that no file can hold",
    "dots": "dots that are no word",
    "refused": "refused caption that is too long",
    "crash": "crash that comes each time",
}


@pytest.mark.parametrize("options", [(), ("--no-schema",)], ids=["json_schema", "prompt"])
def test_misbehaviour_costs_no_row(tmp_path, capsys, options):
    rows = [vtg(name, caption) for name, caption in CAPTIONS.items()]
    data, out = write_lines(tmp_path / "in.jsonl", [*rows, {**vtg("silent"), "query": None}]), tmp_path / "out.jsonl"
    with server(*options) as running:
        assert analyze(running.url, data, out) == 0
        requests = running.seen()["requests"]

    assert {row["id"]: row["objects"] for row in read_lines(out)} == {
        "plain": ["man in red"],
        "fenced": ["fenced cat"],
        "limited": ["limited dog"],
        "flaky": ["flaky girl"],
        "malformed": ["malformed boy"],
        "slow": ["slow horse"],
        "page": ["page bird"],
        "squeezed": ["squeezed cat"],
    }
    assert [row["id"] for row in read_lines(out)] == list(CAPTIONS)[:8]  # input order, whatever finished first
    assert read_lines(out)[0]["source"] == rows[0]
    assert rejected(out) == {
        "nothing": "no_objects",
        "wrong": "bad_answer",
        "list": "bad_answer",
        "half": "bad_answer",
        "dots": "bad_answer",
        "refused": "no_answer",
        "crash": "no_answer",
        "silent": "no_caption",
    }
    counts = read_lines(
        write_lines(tmp_path / "c", [(tmp_path / "out.jsonl.counts.json").read_text().replace("\n", "")])
    )
    assert (counts[0]["in"], counts[0]["out"]) == (16, 8) and sum(counts[0]["rejected"].values()) == 8
    table = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert (table["in"][1], table["out"][1]) == ("16", "8")

    # The second question shows the model its invalid answer.
    assert [r["turns"] for r in requests if r["caption"].startswith("malformed")] == [2, 4]
    assert [r["turns"] for r in requests if r["caption"].startswith("wrong")] == [2, 4, 6]
    assert all(r["structured"] is not bool(options) for r in requests if not r["caption"].startswith("refused"))
    assert all(r["key"] is None and r["model"] == "tiny" for r in requests)


def test_key_and_concurrency(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    data = write_lines(tmp_path / "in.jsonl", [vtg(str(i), f"the man {i} that runs") for i in range(12)])
    with server("--delay", "0.2") as running:
        assert analyze(running.url, data, tmp_path / "out.jsonl", "--api-key-env", "MY_KEY") == 0
        seen = running.seen()

    assert {request["key"] for request in seen["requests"]} == {"Bearer secret"}
    assert seen["most_at_once"] == 4


def test_dead_endpoint_keeps_what_is_finished(tmp_path, capsys):
    """Down from the start; then up, killed in the middle; then up again: only the missing captions are asked."""
    rows = [vtg(str(i), f"the man {i} that runs") for i in range(40)]
    data, out = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with server("--down") as running:
        assert analyze(running.url, data, out) == 1

    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("spacevllm-cli unistg: analyze: http://127.0.0.1:")
    assert "after 4 tries" in message and "HTTP 503 out of memory" in message and "the same command goes on" in message
    assert not out.exists()

    with server("--delay", "0.1") as running:

        def die():
            while len(running.seen()["requests"]) < 15:
                time.sleep(0.02)

            running.process.kill()

        threading.Thread(target=die).start()
        assert analyze(running.url, data, out) == 1

    assert "after 4 tries" in capsys.readouterr().err
    finished = len((tmp_path / "out.jsonl.partial").read_text().splitlines()) - 1
    assert 5 <= finished < 20 and not out.exists()

    with server() as running:
        assert analyze(running.url, data, out) == 0
        assert len(running.seen()["requests"]) == 40 - finished
        assert analyze(running.url, data, tmp_path / "whole.jsonl") == 0

    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(read_lines(out)) == 40


@pytest.mark.parametrize(
    "url, says", [("http://127.0.0.1:9/v1", "refused"), ("no-url", "http"), ("http://nowhere.invalid/v1", "tries")]
)
def test_wrong_address_is_one_line(tmp_path, capsys, url, says):
    data = write_lines(tmp_path / "in.jsonl", [vtg("a")])
    assert analyze(url, data, tmp_path / "out.jsonl", "--retries", "1") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spacevllm-cli")]
    assert len(lines) == 1 and says in lines[0].lower()


def test_an_address_without_protocol_stops_at_once(tmp_path, capsys):
    data = write_lines(tmp_path / "in.jsonl", [vtg("a")])
    started = time.monotonic()
    assert analyze("localhost:8000/v1", data, tmp_path / "out.jsonl", "--backoff", "20") == 1
    assert time.monotonic() - started < 10 and "http://" in capsys.readouterr().err


def test_wrong_path_stops_at_once(tmp_path, capsys):
    data = write_lines(tmp_path / "in.jsonl", [vtg("a")])
    with server() as running:
        assert analyze(running.url + "/v2", data, tmp_path / "out.jsonl") == 1

    assert "HTTP 404" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, objects",
    [
        ('{"objects": ["man in red", "door"]}', ["man in red", "door"]),
        ('```json\n{"objects": ["  man  in red. ", "man in red", "cup"]}\n```', ["man in red", "cup"]),
        ('<think>{"objects": ["x"]}</think>{"objects": []}', []),
    ],
)
def test_answers_that_are_taken(text, objects):
    assert parse_answer(text) == objects


@pytest.mark.parametrize(
    "text, says",
    [
        ("a man", "no JSON object"),
        ('{"objects": "man"}', "objects"),
        ('{"objects": ["man", 3]}', "objects.1"),
        ('{"objects": ["man"], "verb": "runs"}', "verb"),
        ("{}", "objects: Field required"),
        ('{"objects": ["."]}', "0 characters"),
        ('{"objects": ["' + "x" * 101 + '"]}', "101 characters"),
        ('{"objects": ["a","b","c","d","e","f","g","h","i"]}', "at most 8"),
        ('{"objects": ["man"', "no JSON object"),
    ],
)
def test_answers_that_are_not(text, says):
    with pytest.raises(ValueError, match=says) as error:
        parse_answer(text)

    assert "\n" not in str(error.value)


def test_schema_sent_is_the_schema_checked():
    ours = Answer.model_json_schema()
    assert ours["required"] == SCHEMA["required"] and ours["additionalProperties"] is SCHEMA["additionalProperties"]
    assert ours["properties"]["objects"]["items"] == SCHEMA["properties"]["objects"]["items"]


def test_no_key_in_any_file(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret")
    data = write_lines(tmp_path / "in.jsonl", [vtg("a")])
    with server() as running:
        assert analyze(running.url, data, tmp_path / "out.jsonl") == 0

    assert all(b"very-secret" not in file.read_bytes() for file in tmp_path.iterdir())
    assert os.environ["OPENAI_API_KEY"] == "very-secret"
