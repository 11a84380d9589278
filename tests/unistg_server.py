"""A server of OpenAI's chat protocol whose answers and failures are scripted by the caption; a process of its own.

    python unistg_server.py [--no-schema] [--down] [--delay SECONDS]

It prints its port. `GET /seen` tells what was asked.
"""

import argparse
import asyncio
import json
import socket
from collections import Counter

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse


def objects_of(caption):
    """`the red circle that moves left` -> its subject; captions are made for this."""
    return [caption.split(" that ")[0].removeprefix("the ")]


def make_app(options):
    app = FastAPI()
    asked, seen, running = Counter(), [], {"now": 0, "most": 0}

    @app.get("/seen")
    def what_was_seen():
        return {"requests": seen, "most_at_once": running["most"]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request):
        body = await request.json()
        caption = body["messages"][1]["content"]
        structured = "response_format" in body
        if structured and options.no_schema:
            return JSONResponse({"error": {"message": "response_format is not supported"}}, 400)

        asked[caption] += 1
        running["now"] += 1
        running["most"] = max(running["most"], running["now"])
        seen.append(
            {
                "caption": caption,
                "structured": structured,
                "key": request.headers.get("Authorization"),
                "turns": len(body["messages"]),
                "model": body["model"],
            }
        )
        try:
            await asyncio.sleep(options.delay)
            return await answer(caption, asked[caption])
        finally:
            running["now"] -= 1

    async def answer(caption, attempt):
        if options.down:
            return PlainTextResponse("out of\nmemory", 503)

        word = caption.split()[0]
        if word == "limited" and attempt == 1:
            return JSONResponse({"error": {"message": "slow down"}}, 429, headers={"Retry-After": "0.2"})

        if word == "flaky" and attempt <= 2 or word == "crash":
            return PlainTextResponse("internal error", 500)

        if word == "refused":
            return JSONResponse({"error": {"message": "the prompt is too long"}}, 400)

        if word == "slow" and attempt == 1:
            await asyncio.sleep(30)

        if word == "squeezed" and attempt == 1:
            return PlainTextResponse("not compressed", headers={"Content-Encoding": "gzip"})

        if word == "page" and attempt == 1:
            return PlainTextResponse("<html>a proxy's page</html>")

        if word == "half":
            # Half of a surrogate pair: JSON may escape it, UTF-8 has no bytes for it.
            return PlainTextResponse(json.dumps({"choices": [{"message": {"content": '{"objects": ["\ud800"]}'}}]}))

        content = json.dumps({"objects": objects_of(caption)})
        if word == "nothing":
            content = '{"objects": []}'
        elif word == "malformed" and attempt == 1:
            content = "Sure! The objects are: a man"
        elif word == "fenced":
            content = f"<think>{{what?}}</think>Here:\n```json\n{content}\n```"
        elif word == "wrong":
            content = '{"objects": ["man"], "things": 1}'
        elif word == "list":
            content = '["man"]'
        elif word == "dots":
            content = '{"objects": ["man", "?"]}'

        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-schema", action="store_true")
    parser.add_argument("--down", action="store_true")
    parser.add_argument("--delay", type=float, default=0.0)
    args = parser.parse_args()
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(make_app(args), log_level="error")).run(sockets=[listening])
