"""Requests to LLaMA-Factory's API that come all at once: together (`max_batch`) against one by one, in turns.

`python benchmarks/api_batches.py [--size tiny|100m] [--requests 64] [--per-video 1] [--max-batch 16] [--out FILE.json]` sends
chat requests, each with a video of its own (or `--per-video` of them with one of the same), to two apps over the same
weights, and compares every answer with the one to the same request alone. The apps are called in this process, from the
request's JSON to the answer's, without a network between. Random weights, on the GPU if there is one.
"""

import argparse
import asyncio
import base64
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from gpu.shapes import write_checkpoint
from questions import SIDES, write_data
from shape_100m import SHAPE_100M

from spacevllm_plugin.bootstrap import install


ROUTE = "/v1/chat/completions"


def load(folder: Path, args: argparse.Namespace, max_batch: int) -> Any:
    """An app with random weights, the same each time."""
    import torch
    from llamafactory.api.app import create_app
    from llamafactory.chat import ChatModel

    from spacevllm_plugin.integration.engine_loader import template_for

    torch.manual_seed(0)
    side, model = SIDES[args.size], str(folder / "model")
    given = {
        "model_name_or_path": model,
        "template": template_for(model),
        "train_from_scratch": True,
        "infer_dtype": args.dtype,
        "video_maxlen": args.frames,
        "video_max_pixels": side * side,
        "do_sample": False,
        "max_new_tokens": args.new_tokens,
        "max_batch": max_batch,
        "max_wait_ms": args.max_wait_ms,
        "prefix_cache_gb": args.prefix_cache_gb,
    }
    return create_app(ChatModel(given))


def requests_of(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One request for each row: the video in it, the sentence behind."""
    requests = []
    for row in write_data(folder, args, -(-args.requests // args.per_video), args.per_video)[: args.requests]:
        video = base64.b64encode((folder / row.videos[0]).read_bytes()).decode()
        content = [
            {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{video}"}},
            {"type": "text", "text": row.messages[0].content.removeprefix("<video>")},
        ]
        requests.append({"model": "any", "tubes": "field", "messages": [{"role": "user", "content": content}]})

    return requests


def answered(answer: Any) -> tuple[str, list[list[float]]]:
    """Text and boxes of an answer."""
    answer.raise_for_status()
    message = answer.json()["choices"][0]["message"]
    return message["content"], [box for tube in message["tubes"] for box in tube["boxes"]]


def pixels_apart(boxes: list[list[float]], others: list[list[float]]) -> float:
    """The farthest that two edges of the same boxes lie apart."""
    return max(abs(a - b) for box, other in zip(boxes, others, strict=True) for a, b in zip(box, other, strict=True))


async def measure(apps: dict[str, Any], requests: list[dict[str, Any]], turns: int) -> dict[str, Any]:
    """Seconds of each side's turns and seconds that each of its answers took, and how the answers agree with those alone."""
    import httpx

    clients = {
        name: httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api", timeout=None)
        for name, app in apps.items()
    }

    async def ask(name: str, request: dict[str, Any]) -> tuple[float, tuple]:
        start = time.perf_counter()
        answer = await clients[name].post(ROUTE, json=request)
        return time.perf_counter() - start, answered(answer)

    async def timed(work: Awaitable[list]) -> tuple[float, list]:
        start = time.perf_counter()
        result = await work
        return time.perf_counter() - start, result

    alone = [(await ask("one by one", request))[1] for request in requests]
    await asyncio.gather(*(ask("together", request) for request in requests[:4]))  # whatever is done once
    sides: dict[str, dict[str, Any]] = {
        name: {"seconds": [], "latencies": [], "other_texts": 0, "pixels_apart": 0.0} for name in apps
    }
    for _ in range(turns):
        for name, side in sides.items():
            seconds, answers = await timed(asyncio.gather(*(ask(name, request) for request in requests)))
            side["seconds"].append(seconds)
            side["latencies"] += [latency for latency, _ in answers]
            for (_, (text, boxes)), (expected, others) in zip(answers, alone, strict=True):
                side["other_texts"] += text != expected
                side["pixels_apart"] = max(side["pixels_apart"], pixels_apart(boxes, others))

    return sides


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIDES, default="tiny")
    parser.add_argument("--dtype", default="float32", help="of the weights")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--requests", type=int, default=64, help="at once")
    parser.add_argument("--per-video", type=int, default=1, help="requests about the same video")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--max-wait-ms", type=float, default=0.0)
    parser.add_argument("--prefix-cache-gb", type=float, default=0.0, help="on both sides")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the table as JSON")
    args = parser.parse_args()
    os.environ["API_VERBOSE"] = "0"  # LLaMA-Factory would print the videos
    install()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_checkpoint(SHAPE_100M, work / "model", tiny=args.size == "tiny")
        requests = requests_of(work / "data", args)
        apps = {"one by one": load(work, args, 1), "together": load(work, args, args.max_batch)}
        sides = asyncio.run(measure(apps, requests, args.turns))

    single = statistics.median(sides["one by one"]["seconds"])
    table = [
        {
            "case": name,
            "requests_per_second": len(requests) / statistics.median(side["seconds"]),
            "spread_seconds": max(side["seconds"]) - min(side["seconds"]),
            "times": single / statistics.median(side["seconds"]),
            "median_latency": statistics.median(side["latencies"]),
            "longest_latency": max(side["latencies"]),
            "texts_other_than_alone": side["other_texts"],
            "pixels_apart_from_alone": side["pixels_apart"],
        }
        for name, side in sides.items()
    ]
    for row in table:
        print(
            "  ".join(
                f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
            )
        )

    if args.out:
        given = {name: value for name, value in vars(args).items() if name != "out"}
        args.out.write_text(json.dumps({"given": given, "sides": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
