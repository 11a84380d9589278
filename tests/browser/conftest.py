"""A headless Chromium (Debian's package, or SPACEVLLM_CHROMIUM), and servers in processes of their own, on loopback."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest


START_SECONDS = 180  # importing torch and gradio beside another test process takes its time
LOOPBACK = ("http://127.0.0.1:", "http://localhost:", "ws://127.0.0.1:", "ws://localhost:", "data:", "blob:", "about:")


@pytest.fixture(scope="module")
def chromium():
    """One browser for the tests of a file; skips where there is none. Its event loop would be in the way of other files'."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("SPACEVLLM_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")

    with playwright.sync_playwright() as driver:
        # The sandbox wants a user who is not root; shared memory is small in containers.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """`open_page(url, width=1400, height=900, dark=False)`: a page of a user of its own, without the internet.

    `page.outside` lists the requests that it made to other machines; they were refused.
    """
    with contextlib.ExitStack() as stack:

        def open_one(url, width=1400, height=900, dark=False, **options):
            context = chromium.new_context(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", **options
            )
            stack.callback(context.close)
            outside = []

            def decide(route):
                if route.request.url.startswith(LOOPBACK):
                    route.continue_()
                else:
                    outside.append(route.request.url)
                    route.abort()

            context.route("**/*", decide)
            page = context.new_page()
            page.outside = outside
            page.set_default_timeout(90_000)  # two cores are shared with other tests
            page.goto(url)
            return page

        yield open_one


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen
    log: Path


@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    """`serve("-m", "spacevllm_plugin.cli.main", …, port=…, **environment)`: a Python server; ended after the tests.

    The command must listen on the port it was told (`free_port()`); returns once a GET is answered.
    """
    with contextlib.ExitStack() as stack:

        def start(*arguments, port, cwd=None, **environment):
            log = tmp_path_factory.mktemp("server") / "log.txt"
            # What the network would be asked for is not to be had; scripts of the environment lie beside its Python.
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            offline = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "0", "PATH": path}
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                env={**os.environ, **offline, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stack.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
                cwd=cwd,
            )
            stack.callback(stop, process)
            wait_for(f"http://127.0.0.1:{port}/", process, log)
            return Server(f"http://127.0.0.1:{port}", process, log)

        yield start


def stop(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(url, process, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{log.read_text()[-4000:]}"
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.3)

    raise AssertionError(f"no answer at {url} after {START_SECONDS} s:\n{log.read_text()[-4000:]}")
