"""vLLM: chat completions with embeddings for pictures; states of the prompt come as a file (hidden-state extraction)."""

import asyncio
import base64
import io
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer

from ..data.prompt_rules import PromptError
from .client import EngineAnswer, EngineClient, Launch, Sampling
from .description import CHAT_TEMPLATE, EngineExport
from .prompt import EnginePrompt, Picture
from .sidecar import States


LOCK = ".lock"
POLL = 0.02  # seconds between two looks at a file that is still being written
PICTURES = 4096  # of a request, earlier turns' among them: more than any prompt has room for


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None


class _Usage(BaseModel):
    completion_tokens: int


class _Reply(BaseModel):
    choices: list[_Choice]
    usage: _Usage
    kv_transfer_params: dict[str, Any] | None = None


class VLLM(EngineClient):
    """See `EngineClient`.

    The whole prompt goes as one message, whose parts the export's own chat template only puts together: text, with all
    special tokens in it, and pictures. Whether the engine's tokenizer makes the same tokens of it is checked before and, by
    the tokens that come with the states, behind.
    """

    title, package, tells_earlier = "vLLM", "vllm", True
    name = "spacevllm"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.mark = self.tokenizer.convert_ids_to_tokens(self.export.picture_token)
        # Extraction counts as speculative decoding, with which vLLM takes words but no `logit_bias`. Each costs time at each
        # token, so that only those are named which the model has scores for: those of queries are nought.
        nought = set(self.export.queries.all)
        named = self.tokenizer.convert_ids_to_tokens([i for i in self.export.suppressed if i not in nought])
        self.never = [token for token in named if token]

    @staticmethod
    def find_problem(export: EngineExport) -> str | None:
        """See `EngineClient`."""
        if export.merge_size is None:
            return (
                f"vLLM hands out states of the Qwen-VL family's language models alone, and this is {export.backbone}"
            )

        return None

    @staticmethod
    def layers(export: EngineExport) -> list[int]:
        """Whose inputs the engine hands out; the number of layers stands for the last one's output, before the norm."""
        earlier = [] if export.presence_layer is None else [export.presence_layer]
        return [*earlier, export.num_layers]

    @staticmethod
    def launch(folder: Path, export: EngineExport, port: int, states: Path, python: str) -> Launch:
        """See `EngineClient`."""
        extraction = {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": VLLM.layers(export)}},
        }
        transfer = {
            "kv_connector": "ExampleHiddenStatesConnector",
            "kv_role": "kv_producer",
            "kv_connector_extra_config": {"shared_storage_path": str(states)},
        }
        options = {
            "--served-model-name": VLLM.name,
            "--host": "127.0.0.1",
            "--port": str(port),
            "--chat-template": str(folder / CHAT_TEMPLATE),
            "--chat-template-content-format": "openai",
            # Videos are pictures here. No images at all would leave out the tower, but their deepstack features with it.
            "--limit-mm-per-prompt": json.dumps({"image": PICTURES, "video": 0}),
            "--speculative-config": json.dumps(extraction),
            "--kv-transfer-config": json.dumps(transfer),
        }
        # A prefix cache of linear attention needs chunks, of which states cannot be extracted.
        flags = ["--enable-mm-embeds", "--no-enable-prefix-caching", "--no-enable-chunked-prefill"]
        command = [str(Path(python).with_name("vllm")), "serve", str(folder), *flags]
        return Launch([*command, *(part for pair in options.items() for part in pair)])

    async def answer(self, prompt: EnginePrompt, sampling: Sampling) -> EngineAnswer:
        """See `EngineClient`."""
        await asyncio.to_thread(self._sweep)
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": await asyncio.to_thread(self._parts, prompt)}],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "repetition_penalty": sampling.repetition_penalty,
            "stop": sampling.stop,
            "bad_words": self.never,
        }
        reply = await self._post("/v1/chat/completions", body)
        try:
            reply = _Reply.model_validate(reply)
            (choice,) = reply.choices
        except (ValidationError, ValueError):
            raise self._error("its answer is no chat completion with one choice") from None

        # First, for their file has to go whatever the answer is worth.
        states = await asyncio.to_thread(self._states, prompt, reply.kv_transfer_params or {})
        finish = self._ending(choice.finish_reason)
        return EngineAnswer(choice.message.content or "", finish, reply.usage.completion_tokens, states)

    def _parts(self, prompt: EnginePrompt) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        written, meant = "", []
        for piece in prompt.pieces():
            if isinstance(piece, Picture):
                parts.append({"type": "image_embeds", "image_embeds": _embeds(piece)})
                written, meant = written + self.mark, [*meant, self.export.picture_token]
            else:
                text = self.tokenizer.decode(piece, skip_special_tokens=False, clean_up_tokenization_spaces=False)
                parts.append({"type": "text", "text": text})
                written, meant = written + text, meant + piece

        if self.tokenizer.encode(written, add_special_tokens=False) != meant:
            raise PromptError("the engine would read tokens into the text that are not in it", "special-token")

        return parts

    def _states(self, prompt: EnginePrompt, params: dict[str, Any]) -> States | None:
        path = params.get("hidden_states_path")
        if not isinstance(path, str) or not path.endswith(".safetensors"):  # it will be removed
            if prompt.layout is None:
                return None

            raise self._error("no `hidden_states_path` in its answer; was it started with hidden-state extraction?")

        try:
            # Of a text no state is read, but its file has to go, too.
            found = self._load(Path(path))
        finally:
            for file in (path, path + LOCK):
                Path(file).unlink(missing_ok=True)

        if prompt.layout is None:
            return None

        states, tokens = found["hidden_states"], found["token_ids"]
        self._check_count(len(tokens), prompt, "was it started with chunked prefill?")
        if tokens.tolist() != prompt.token_ids:
            raise self._error("it has read other tokens than the prompt's")

        layers = self.layers(self.export)
        if states.dim() != 3 or states.shape[:2] != (len(tokens), len(layers)):
            raise self._error(f"states of shape {tuple(states.shape)} for {len(tokens)} tokens and layers {layers}")

        return States(states[:, -1], normed=False, earlier=states[:, 0] if len(layers) > 1 else None)

    def _sweep(self) -> None:
        """Remove what answers that came too late have left: a file is read within two time-outs, or never."""
        oldest = time.time() - 2 * self.timeout
        for file in self.states.iterdir() if self.states is not None else ():
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < oldest:
                    file.unlink()

    def _load(self, path: Path) -> dict[str, torch.Tensor]:
        """A file of states, once the engine has written it: until then it holds a lock on another file beside it."""
        import fcntl  # not on Windows, and neither is vLLM

        try:
            with open(f"{path}{LOCK}", "rb") as lock:
                for _ in _patience(self.timeout):
                    with suppress(BlockingIOError):
                        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                        break
                else:
                    raise self._error(f"its file of states was not written within {self.timeout:g} s: {path}")

                found = load_file(path)
        except FileNotFoundError:
            raise self._error(f"its file of states is not there: {path}") from None
        except (OSError, SafetensorError) as err:
            raise self._error(f"its file of states cannot be read: {path} ({err})") from None

        missing = {"hidden_states", "token_ids"} - set(found)
        if missing:
            raise self._error(f"its file of states lacks {', '.join(sorted(missing))}: {path}")

        return found


def _patience(seconds: float) -> Any:
    """Yields, again and again, until the seconds are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(POLL)


def _embeds(picture: Picture) -> dict[str, str]:
    """A picture as the documentation of vLLM has it: base64 of `torch.save`."""
    return {"image_embeds": _saved(picture.embeds), "image_grid_thw": _saved(torch.tensor(picture.grid))}


def _saved(tensor: torch.Tensor) -> str:
    file = io.BytesIO()
    torch.save(tensor.clone(), file)  # of a view, all that lies behind it would be saved
    return base64.b64encode(file.getvalue()).decode()
