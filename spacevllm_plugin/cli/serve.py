"""`spacevllm-cli serve`: an inference engine for the language model, and OpenAI's API with tubes before it."""

import argparse
import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .errors import CommandError, UsageError
from .loading import add_length_argument, add_lf_arguments, load


EXAMPLE = "spacevllm-cli serve out/engine --engine vllm --port 8000 --engine-args='--tensor-parallel-size 2'"
# name -> (module of `serving`, class)
ENGINES = {"vllm": ("vllm", "VLLM"), "sglang": ("sglang", "SGLang")}
SHARED_MEMORY = Path("/dev/shm")
POLL = 1.0  # seconds between two looks at an engine that is starting
GRACE = 20  # seconds that an engine has to end


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("export", type=Path, metavar="DIR", help="what `spacevllm-cli export --for-engine` wrote")
    parser.add_argument("--engine", required=True, choices=ENGINES, help="what runs the language model")
    parser.add_argument("--host", default="127.0.0.1", help="address of the API (default: %(default)s, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="port of the API (default: %(default)s)")
    parser.add_argument(
        "--engine-url", metavar="URL", help="an engine that runs already, on this machine; none is started"
    )
    parser.add_argument("--engine-port", type=int, help="port of the engine that is started (default: a free one)")
    parser.add_argument(
        "--engine-python",
        default=sys.executable,
        metavar="PYTHON",
        help="interpreter of the environment that has the engine (default: this one)",
    )
    parser.add_argument(
        "--engine-args", default="", metavar="ARGS", help="further arguments of the engine, as one: --engine-args='…'"
    )
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one answer (default: %(default)s)")
    parser.add_argument(
        "--start-timeout", type=float, default=1800, help="seconds for the engine's start (default: %(default)s)"
    )
    parser.add_argument(
        "--print-command", action="store_true", help="print the engine's command line, start nothing, load nothing"
    )
    add_lf_arguments(parser)
    add_length_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Start the engine, wait until it is ready, serve until interrupted."""
    from ..serving.description import EngineExport, NoExport

    try:
        export = EngineExport.read(args.export)
    except NoExport as err:
        raise CommandError(str(err)) from None

    module, name = ENGINES[args.engine]
    engine: Any = getattr(import_module(f"..serving.{module}", __package__), name)
    if problem := engine.find_problem(export):
        raise CommandError(problem)

    if args.engine_url and (args.print_command or args.engine_args):
        raise UsageError("--engine-url is an engine that runs already: there is nothing to start it with")

    with ExitStack() as stack:
        if not args.print_command:  # before minutes of loading
            listener = stack.enter_context(_bound(args.host, args.port))

        if args.engine_url:
            client = engine(args.engine_url, export, args.export, args.timeout)
            process = None
        else:
            port = args.engine_port or _free_port()
            states = Path(stack.enter_context(_states_folder()))
            launch = engine.launch(args.export, export, port, states, args.engine_python)
            command = [*launch.command, *shlex.split(args.engine_args)]
            variables = [f"{key}={shlex.quote(value)}" for key, value in launch.environment.items()]
            print(" ".join([*variables, shlex.join(command)]), flush=True)
            if args.print_command:
                return

            _check_installed(args.engine_python, engine)
            client = engine(f"http://127.0.0.1:{port}", export, args.export, args.timeout, states)
            process = stack.enter_context(_started(command, launch.environment))

        # While the engine loads its part, the sidecar loads here.
        app = _app(args, export, client)
        _wait(client, process, args.start_timeout)
        print(f"the API is at http://{args.host}:{listener.getsockname()[1]}/v1 (Ctrl-C ends it)", flush=True)
        _serve(app, listener, client, process, "info" if args.verbose else "warning")


def _serve(app: Any, listener: socket.socket, client: Any, process: subprocess.Popen | None, log_level: str) -> None:
    """Answer until interrupted, or until the engine's process ends."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level=log_level, timeout_graceful_shutdown=GRACE))

    def watch() -> None:
        process.wait()
        server.should_exit = True

    if process is not None:
        threading.Thread(target=watch, daemon=True).start()

    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])

    if process is not None and process.poll() is not None:
        raise CommandError(f"{client.title} has ended (exit code {process.returncode}), see above")


def _app(args: argparse.Namespace, export: Any, client: Any) -> Any:
    from ..serving.description import SIDECAR
    from ..serving.sidecar import Sidecar

    args.model, args.adapter = str(args.export / SIDECAR), None
    sidecar = Sidecar(load(args), export, presence=client.tells_earlier)
    from ..integration.engine_api import EngineChat, create_app

    return create_app(EngineChat(sidecar, client, args.max_new_tokens))


def _check_installed(python: str, engine: Any) -> None:
    probe = f"import importlib.util as u, sys; sys.exit(u.find_spec('{engine.package}') is None)"
    try:
        missing = subprocess.run([python, "-c", probe], check=False).returncode != 0
    except OSError as err:
        raise CommandError(f"--engine-python {python}: {err.strerror}") from None

    if missing:
        raise CommandError(
            f"{engine.title} is not installed for {python}: `pip install {engine.package}`, best in an environment of its "
            "own, which --engine-python names"
        )


def _bound(host: str, port: int) -> socket.socket:
    """A socket with the API's address, on which nobody listens yet."""
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
    try:
        server.bind((host, port))
    except (OSError, OverflowError) as err:
        server.close()
        raise CommandError(f"--host {host} --port {port}: {getattr(err, 'strerror', None) or err}") from None

    return server


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _states_folder() -> TemporaryDirectory:
    return TemporaryDirectory(prefix="spacevllm_states_", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)


@contextmanager
def _started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """An engine's process, with all that it starts, for as long as the block runs."""
    # A killed server ends its engine, like one that is interrupted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        process = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)
    except OSError as err:
        raise CommandError(f"{command[0]}: {err.strerror}") from None

    try:
        yield process
    finally:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, kind)
                process.wait(GRACE)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def _wait(client: Any, process: subprocess.Popen | None, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not asyncio.run(client.healthy()):
        if process is None:
            raise CommandError(f"{client.title} does not answer at {client.url}/health")

        if process.poll() is not None:
            raise CommandError(f"{client.title} ended while starting (exit code {process.returncode}), see above")

        if time.monotonic() > end:
            raise CommandError(f"{client.title} was not ready within {seconds:g} s")

        time.sleep(POLL)
