"""The page as a server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from starlette.middleware import Middleware

from ..inference.engine import Engine
from .desk import Desk
from .guard import Guard, refuse_addresses
from .limits import Limits
from .workspace import workspace


SWEEP_SECONDS = 10


@contextmanager
def serve(
    engine: Engine,
    model: str,
    host: str,
    port: int | None,
    limits: Limits,
    max_new_tokens: int,
    corrections: Path | None = None,
) -> Iterator[str]:
    """Serve the page as long as the block lasts.

    Args:
        engine: The loaded model.
        model: Its name, to show.
        host: Address to listen at.
        port: Port; a free one where None.
        limits: What a visitor may send.
        max_new_tokens: Longest answer.
        corrections: File that corrected rows are appended to; None where visitors save nothing.

    Yields:
        The page's address.

    Raises:
        OSError: The port is taken.
    """
    with workspace() as folder:
        # Not before: Gradio notes where its files lie when it is imported.
        from .page import build_page

        desk = Desk(engine, folder, limits, max_new_tokens, corrections)
        page = build_page(desk, model)
        refuse_addresses(page)
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            show_api=False,
            inbrowser=False,
            prevent_thread_lock=True,
            max_file_size=limits.bytes,
            app_kwargs={"middleware": [Middleware(Guard, limits=limits, workspace=folder)]},
        )
        done = threading.Event()
        sweeper = threading.Thread(target=_sweep, args=(desk, done), daemon=True)
        sweeper.start()
        try:
            yield url
        finally:
            done.set()
            page.close(verbose=False)


def _sweep(desk: Desk, done: threading.Event) -> None:
    while not done.wait(SWEEP_SECONDS):
        with suppress(OSError):  # what is there may be on its way elsewhere: again, later
            desk.sessions.sweep()
