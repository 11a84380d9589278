"""What stands between the network and Gradio.

Requests that the page never makes are refused, too large ones are not read, and the browser is told to ask nobody else.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse

from .limits import Limits, Refused


# Routes of Gradio that this page has no use for: they fetch, keep or convert what a client names.
UNUSED = re.compile(
    r"/(process_recording|proxy=|deep_link|vibe|\w*-?vibe-edit|monitoring|component_server|dev/reload)"
)
ADDRESS = re.compile(r"/file=/*[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # would be a redirection to anywhere
# Gradio's page names a script and two font servers of others, none of which it needs.
OUTSIDE = re.compile(rb'<script\s+src="https?://[^>]*>\s*</script>|<link\s+rel="preconnect"[^>]*>')
ONLY_US = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = {
    b"content-security-policy": ONLY_US.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}
FORM_BYTES = 1 << 16  # what a form says around the file
EVENT_BYTES = 1 << 20  # sentences and numbers


class Guard:
    """ASGI middleware.

    Args:
        app: Gradio's application.
        limits: What a visitor may send.
        workspace: Where uploads go.
    """

    def __init__(self, app: Any, limits: Limits, workspace: Path) -> None:
        self.app, self.limits, self.workspace = app, limits, workspace

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Answer, or let Gradio answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        refusal = self._refusal(scope)
        if refusal is not None:
            await PlainTextResponse(*refusal, headers={"connection": "close"})(scope, receive, send)
            return

        await self.app(scope, receive, _Clean(send) if scope["path"] == "/" else _add_headers(send))

    def _refusal(self, scope: dict) -> tuple[str, int] | None:
        path = scope["path"]
        if UNUSED.search(path) or ADDRESS.search(path):
            return "this page has no such address", 404

        if scope["method"] != "POST":
            return None

        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return "a request has to say how long it is", 411

        if not path.rstrip("/").endswith("/upload"):
            return ("the request is too long", 413) if int(length) > EVENT_BYTES else None

        try:
            # Before a byte of it is read.
            self.limits.check_bytes(int(length) - FORM_BYTES)
        except Refused as err:
            return str(err), 413

        if shutil.disk_usage(self.workspace).free < int(length) + self.limits.bytes:
            return "there is no room for more files: please try again later", 507

        return None


def _add_headers(send: Any) -> Any:
    async def with_headers(message: dict) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *HEADERS.items()]}

        await send(message)

    return with_headers


class _Clean:
    """Sends a page without what it would load from others."""

    def __init__(self, send: Any) -> None:
        self.send, self.start, self.body = send, {}, b""

    async def __call__(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return

        self.body += message.get("body", b"")
        if message.get("more_body"):
            return

        body = OUTSIDE.sub(b"", self.body)
        headers = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self.send({**self.start, "headers": [*headers, *HEADERS.items()]})
        await self.send({"type": "http.response.body", "body": body})


def refuse_addresses(page: Any) -> None:
    """Let no component fetch what a client names by an address: Gradio would download it for any field that takes data.

    Args:
        page: The `gradio.Blocks`, complete.
    """
    for block in page.blocks.values():
        if hasattr(block, "async_move_resource_to_block_cache"):
            block.async_move_resource_to_block_cache = _local_only(block.async_move_resource_to_block_cache)


def _local_only(move: Any) -> Any:
    from gradio import Error

    async def checked(path: Any) -> str | None:
        if re.match(r"\s*[a-z][a-z0-9+.-]*:", str(path or ""), re.IGNORECASE):
            raise Error("this is no uploaded file")

        return await move(path)

    return checked
