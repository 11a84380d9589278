"""Requests to LLaMA-Factory's API that come all at once: together (`max_batch`) against one by one, in turns.

`python benchmarks/api_batches.py [--size tiny|100m|7b] [--requests 64] [--per-video 1] [--max-batch 16]` sends chat requests, each with
a video of its own (or so many with one of the same), to two apps over weights that are the same, and compares every answer with the
one to the same request alone. The apps are called in this process, from the request's JSON to the answer's, without a network
between. Random weights.
"""

import argparse
import asyncio
import base64
import os
import statistics
import time
from collections.abc import Awaitable
from typing import Any

import httpx
import torch
from gpu.asked import write_asked
from gpu.claims import Setting, about, command_line, report, setting
from gpu.sides import NEW_TOKENS


ROUTE = "/v1/chat/completions"
ALONE, TOGETHER = "one by one", "together"


def load(chosen: Setting, args: argparse.Namespace, max_batch: int) -> tuple[Any, Any]:
    """An app and its model, with the same random weights each time."""
    from llamafactory.api.app import create_app
    from llamafactory.chat import ChatModel

    from spacevllm_plugin.integration.engine_loader import template_for

    torch.manual_seed(0)
    model = str(chosen.checkpoint)
    chat = ChatModel(
        {
            "model_name_or_path": model,
            "template": template_for(model),
            "train_from_scratch": True,
            "infer_dtype": "bfloat16" if chosen.half else "float32",
            **chosen.limits(),
            "do_sample": False,
            "max_new_tokens": NEW_TOKENS,
            "max_batch": max_batch,
            "max_wait_ms": args.max_wait_ms,
            "prefix_cache_gb": args.prefix_cache_gb,
        }
    )
    return create_app(chat), chat.engine.model


def requests_of(chosen: Setting, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The requests: the video in each, the sentence behind."""
    folder, videos = chosen.work / "data", -(-args.requests // args.per_video)
    requests = []
    for row in write_asked(folder, chosen.side, chosen.frames, videos, args.per_video)[: args.requests]:
        video = base64.b64encode((folder / row.videos[0]).read_bytes()).decode()
        content = [
            {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{video}"}},
            {"type": "text", "text": row.messages[0].content.removeprefix("<video>")},
        ]
        requests.append({"model": "any", "tubes": "field", "messages": [{"role": "user", "content": content}]})

    return requests


async def timed(work: Awaitable[Any]) -> tuple[float, Any]:
    """Seconds that something took, and what it returned."""
    start = time.perf_counter()
    result = await work
    return time.perf_counter() - start, result


async def ask(client: httpx.AsyncClient, request: dict[str, Any]) -> tuple[str, torch.Tensor]:
    """Text and boxes of an answer."""
    answer = await client.post(ROUTE, json=request)
    answer.raise_for_status()
    message = answer.json()["choices"][0]["message"]
    return message["content"], torch.tensor([box for tube in message["tubes"] for box in tube["boxes"]])


async def measure(apps: dict[str, Any], requests: list[dict[str, Any]], turns: int) -> list[dict[str, Any]]:
    """A row of each side."""
    clients = {
        name: httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api", timeout=None)
        for name, app in apps.items()
    }
    alone = [await ask(clients[ALONE], request) for request in requests]
    await asyncio.gather(*(ask(clients[TOGETHER], request) for request in requests[:4]))  # whatever is done once
    seconds: dict[str, list[float]] = {name: [] for name in apps}
    latencies: dict[str, list[float]] = {name: [] for name in apps}
    others, apart = dict.fromkeys(apps, 0), dict.fromkeys(apps, 0.0)
    for _ in range(turns):
        for name, client in clients.items():
            taken, answers = await timed(asyncio.gather(*(timed(ask(client, request)) for request in requests)))
            seconds[name].append(taken)
            latencies[name] += [latency for latency, _ in answers]
            for (_, (text, boxes)), (expected, expected_boxes) in zip(answers, alone, strict=True):
                others[name] += text != expected
                apart[name] = max(apart[name], (boxes - expected_boxes).abs().max().item())

    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    return [
        {
            "side": name,
            "requests/s": len(requests) / median[name],
            "times": median[ALONE] / median[name],
            "seconds": median[name],
            "spread": max(seconds[name]) - min(seconds[name]),
            "median latency": statistics.median(latencies[name]),
            "longest": max(latencies[name]),
            "other texts": others[name],
            "pixels apart": apart[name],
        }
        for name in apps
    ]


def main() -> None:
    """Measure and print a table."""
    parser = command_line(__doc__, frames=12)
    parser.add_argument("--requests", type=int, default=64, help="at once (default: %(default)s)")
    parser.add_argument("--per-video", type=int, default=1, help="requests about the same video")
    parser.add_argument("--max-batch", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--max-wait-ms", type=float, default=0.0, help="default: %(default)s")
    parser.add_argument("--prefix-cache-gb", type=float, default=0.0, help="on both sides")
    args = parser.parse_args()
    os.environ["API_VERBOSE"] = "0"  # LLaMA-Factory would print the videos
    with setting(args) as chosen:
        requests = requests_of(chosen, args)
        loaded = {ALONE: load(chosen, args, 1), TOGETHER: load(chosen, args, args.max_batch)}
        apps = {name: app for name, (app, _) in loaded.items()}
        rows = asyncio.run(measure(apps, requests, args.turns))
        model = loaded[ALONE][1]
        report(args, f"{args.requests} requests at once", rows, new_tokens=NEW_TOKENS, **about(model))


if __name__ == "__main__":
    main()
