"""The engines' HTTP interfaces, as they are documented, before an export's stock class; what can go wrong goes wrong on demand.

vLLM (0.32 and 0.33): docs/features/multimodal_inputs.md (embedding inputs), docs/features/speculative_decoding/
extract_hidden_states.md and the connector named there; sampling_params.py says what is refused. SGLang (0.5.23): `GenerateReqInput`
of managers/io_struct.py, `collect_mm_items_from_processor_output` of multimodal/processors, and `meta_info` of a native answer.
"""

import base64
import fcntl
import io
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

import torch
from jinja2 import Environment
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file

from spacevllm_plugin.serving.sglang_package.spacevllm_sglang.tensors import unpacked


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImageEmbedsPart(Strict):
    type: Literal["image_embeds"]
    image_embeds: dict[Literal["image_embeds", "image_grid_thw"], str]


class Message(Strict):
    role: str
    content: list[Annotated[TextPart | ImageEmbedsPart, Field(discriminator="type")]]


class ChatCompletion(Strict):
    model: str
    messages: list[Message]
    max_tokens: int
    temperature: float
    top_p: float
    repetition_penalty: float
    stop: list[str]
    bad_words: list[str]  # `logit_bias` is refused where states are extracted


class SamplingParams(Strict):
    max_new_tokens: int
    temperature: float
    top_p: float
    repetition_penalty: float
    stop: list[str]
    logit_bias: dict[str, float]


class Generate(Strict):
    input_ids: list[int]
    sampling_params: SamplingParams
    return_hidden_states: bool
    image_data: list[dict[str, Any]] | None = None


# Faults that are there before anything is computed.
ANSWERS = {
    "refused": (400, b'{"object": "error",\n "message": "This model\'s maximum context length is 8"}'),
    "no JSON": (200, b"<html>"),
    "other JSON": (200, b'{"text": "x"}'),
}


def loaded(text):
    return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)


class Stub:
    """One engine.

    Attributes:
        fault: What goes wrong with the next requests; None: nothing.
        requests: What was asked.
    """

    def __init__(self, stock, folder, layers=None, states=None):
        self.stock, self.folder, self.layers = stock, Path(folder), layers
        self.states = Path(states or folder)
        self.fault, self.requests = None, []
        self._one = threading.Lock()

    def reply(self, path, body):
        self.requests.append(body)
        with self._one:
            return {"/v1/chat/completions": self.vllm, "/generate": self.sglang}[path](body)

    def finish(self, token_ids, pictures, suppressed, most):
        inputs = self.stock.inputs(token_ids, pictures)
        tokens = self.stock.generate(inputs, suppressed, most)
        text = self.stock.tokenizer.decode(tokens, skip_special_tokens=True)
        reason = "abort" if self.fault == "broken off" else "length" if len(tokens) == most else "stop"
        return inputs, text, len(tokens), reason

    def vllm(self, body):
        asked = ChatCompletion.model_validate(body)
        template = (self.folder / "engine_template.jinja").read_text()
        messages = [{"role": m.role, "content": [p.model_dump() for p in m.content]} for m in asked.messages]
        text = Environment().from_string(template).render(messages=messages, add_generation_prompt=True)
        pictures = []
        for part in (part for message in asked.messages for part in message.content if part.type == "image_embeds"):
            given = {name: loaded(text) for name, text in part.image_embeds.items()}
            pictures.append((given["image_embeds"], given["image_grid_thw"].tolist()))

        token_ids, left = [], iter(pictures)
        picture_token = self.stock.model.config.image_token_id
        for token in self.stock.tokenizer.encode(text, add_special_tokens=False):
            # A placeholder becomes as many tokens as its picture has.
            token_ids += [token] * (len(next(left)[0]) if token == picture_token else 1)

        words = [self.stock.tokenizer.encode(word, add_special_tokens=False) for word in asked.bad_words]
        assert all(len(word) == 1 for word in words)
        suppressed = [token for word in words for token in word]
        inputs, text, count, reason = self.finish(token_ids, pictures, suppressed, asked.max_tokens)
        layers, raw = self.stock.states(inputs)
        states = torch.stack([raw if layer == len(layers) - 1 else layers[layer] for layer in self.layers], dim=1)
        tokens = torch.tensor(token_ids)
        if self.fault == "few states":
            states, tokens = states[:-3], tokens[:-3]

        elif self.fault == "other tokens":
            tokens = tokens + 1
        elif self.fault == "one layer":
            states = states[:, 1:]

        path = str(self.states / f"request-{uuid4()}.safetensors")  # those asked for at once have files of their own
        lock = open(path + ".lock", "w")  # noqa: SIM115 - closed by the thread that writes
        fcntl.flock(lock, fcntl.LOCK_EX)

        def write():
            time.sleep(0.1)  # the answer is there before the file
            if self.fault == "half a file":
                Path(path).write_bytes(b"\x00" * 20)
            elif self.fault != "no file":
                save_file({"hidden_states": states.contiguous(), "token_ids": tokens}, path)

            if self.fault != "lock kept":
                lock.close()

        if self.fault == "no states":  # as one that was started without the connector
            lock.close()
            Path(path + ".lock").unlink()
        else:
            threading.Thread(target=write, daemon=True).start()

        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": asked.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": reason,
                    "logprobs": None,
                }
            ],
            "usage": {"prompt_tokens": len(token_ids), "completion_tokens": count, "total_tokens": 0},
            "kv_transfer_params": None if self.fault == "no states" else {"hidden_states_path": path},
        }

    def sglang(self, body):
        asked = Generate.model_validate(body)
        pictures = []
        if asked.image_data is not None:
            (item,) = unpacked(asked.image_data)
            # As the other of its formats, `feature` would go through the vision tower.
            assert item.keys() == {"format", "precomputed_embeddings", "image_grid_thw"}
            assert item["format"] == "processor_output"
            grids = item["image_grid_thw"].tolist()
            merge = self.stock.model.config.vision_config.spatial_merge_size
            sizes = [rows * columns // merge**2 for _, rows, columns in grids]
            pictures = list(zip(item["precomputed_embeddings"].split(sizes), grids, strict=True))

        params = asked.sampling_params
        suppressed = [int(token) for token, bias in params.logit_bias.items() if bias == -100]
        inputs, text, count, reason = self.finish(asked.input_ids, pictures, suppressed, params.max_new_tokens)
        info = {"id": "1", "finish_reason": {"type": reason}, "completion_tokens": count}
        if asked.return_hidden_states and self.fault != "no states":
            layers, _ = self.stock.states(inputs)
            prompt = layers[-1].tolist()
            # As with the radix cache: those of what was new alone.
            info["hidden_states"] = [prompt[3:] if self.fault == "few states" else prompt, prompt[-1]]

        return {"text": text, "output_ids": [], "meta_info": info}


@contextmanager
def served(stub, port=0):
    """The stub's address while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if stub.fault == "slow":
                stub.requests.append(body)
                stub.released.wait(60)
                return

            status, data = ANSWERS.get(stub.fault, (200, None))
            if data is None:
                try:
                    data = json.dumps(stub.reply(self.path, body)).encode()
                except Exception as err:
                    status, data = 500, json.dumps({"error": {"message": str(err)}}).encode()

            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    stub.released = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stub.released.set()
        server.shutdown()
        server.server_close()
