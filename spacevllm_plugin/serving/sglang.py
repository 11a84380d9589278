"""SGLang: `/generate` with token ids, and embeddings for pictures; states of the prompt come in the answer."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import save

from .client import EngineAnswer, EngineClient, Launch, Sampling
from .description import EngineExport
from .prompt import EnginePrompt, Picture
from .sidecar import States


# On the engine's path: what reads our pictures there, see its `processors`.
PLUGIN = Path(__file__).with_name("sglang_package")
PROCESSORS = "spacevllm_sglang"
# What makes a query, or a token that stands for pictures, no answer.
NEVER = -100


class _FinishReason(BaseModel):
    type: str


class _MetaInfo(BaseModel):
    finish_reason: _FinishReason | None
    completion_tokens: int
    hidden_states: list[Any] | None = None


class _Reply(BaseModel):
    text: str
    meta_info: _MetaInfo


class SGLang(EngineClient):
    """See `EngineClient`."""

    title, package, tells_earlier = "SGLang", "sglang", False

    @staticmethod
    def find_problem(export: EngineExport) -> str | None:
        """See `EngineClient`."""
        if export.merge_size is None:
            return f"SGLang serves exports of the Qwen-VL family alone, and this is {export.backbone}"

        return None

    @staticmethod
    def launch(folder: Path, export: EngineExport, port: int, states: Path, python: str) -> Launch:
        """See `EngineClient`. Of a prompt that is partly cached, or read in pieces, it would not hand out all states."""
        command = [python, "-m", "sglang.launch_server", "--model-path", str(folder), "--enable-multimodal"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--enable-return-hidden-states"]
        command += ["--disable-radix-cache", "--chunked-prefill-size", "-1"]
        return Launch(command, {"SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE": PROCESSORS, "PYTHONPATH": str(PLUGIN)})

    async def answer(self, prompt: EnginePrompt, sampling: Sampling) -> EngineAnswer:
        """See `EngineClient`."""
        with_media = prompt.layout is not None
        body = {
            "input_ids": prompt.token_ids,
            "sampling_params": {
                "max_new_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "repetition_penalty": sampling.repetition_penalty,
                "stop": sampling.stop,
                "logit_bias": {str(token): NEVER for token in self.export.suppressed},
            },
            "return_hidden_states": with_media,
        }
        if with_media:
            body["image_data"] = [await asyncio.to_thread(_embeds, prompt.pictures)]

        reply = await self._post("/generate", body)
        try:
            reply = _Reply.model_validate(reply)
        except ValidationError as err:
            place = ".".join(map(str, err.errors()[0]["loc"]))
            raise self._error(f"`{place}` of its answer: {err.errors()[0]['msg']}") from None

        reason = reply.meta_info.finish_reason
        finish = self._ending(reason.type if reason else None)
        states = await asyncio.to_thread(self._states, prompt, reply.meta_info) if with_media else None
        return EngineAnswer(reply.text, finish, reply.meta_info.completion_tokens, states)

    def _states(self, prompt: EnginePrompt, info: _MetaInfo) -> States:
        if not info.hidden_states:
            raise self._error("no hidden states in its answer; was it started with --enable-return-hidden-states?")

        # The prompt's come first, those of each generated token behind.
        whole = info.hidden_states[0]
        if not isinstance(whole, list):
            raise self._error("its hidden states are no lists of numbers")

        self._check_count(len(whole), prompt, "was it started with --disable-radix-cache --chunked-prefill-size -1?")
        try:
            return States(torch.tensor(whole, dtype=torch.float32), normed=True)
        except (TypeError, ValueError):
            raise self._error("its hidden states are no table of numbers") from None


def _embeds(pictures: list[Picture]) -> dict[str, Any]:
    """All pictures of a prompt as one item: SGLang takes no more of them where they are embeddings.

    Its format `precomputed_embedding` is not for them: what it calls `feature` goes through the vision tower of most classes.
    """
    tensors = {
        "precomputed_embeddings": torch.cat([picture.embeds for picture in pictures]),
        "image_grid_thw": torch.tensor([picture.grid for picture in pictures]),
    }
    return {"format": "processor_output", "tensors": base64.b64encode(save(tensors)).decode()}
