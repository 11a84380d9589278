"""A local S3 server in a process of its own, which counts what it is asked for; `python object_store.py PORT` is that process."""

import json
import os
import pickle
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import namedtuple
from contextlib import contextmanager, suppress


LOG, DIE = "/_log", "/_die/"
Request = namedtuple("Request", "method path range bytes")
HEADERS = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request",
    "Content-Type": "application/octet-stream",
}
# What every process that shall reach it needs; no other storage is reached by these.
KEYS = {
    "AWS_ACCESS_KEY_ID": "public-id",
    "AWS_SECRET_ACCESS_KEY": "very-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def serve(port, objects):
    import logging
    from threading import Lock

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple
    from werkzeug.test import Client

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store, log, lock = DomainDispatcherApplication(create_backend_app), [], Lock()
    left = []
    for address, body in objects.items():
        for path, data in puts(address, body):
            assert Client(store).put(path, data=data, headers=HEADERS).status_code == 200

    def counting(environ, start_response):
        if environ["PATH_INFO"].startswith(DIE):
            left[:] = [int(environ["PATH_INFO"].removeprefix(DIE))]
            start_response("204 No Content", [])
            return []

        if left and environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"] != LOG:
            with lock:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(1)

        if environ["PATH_INFO"] == LOG:
            with lock:
                body = json.dumps(log).encode()
                log.clear()

            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]

        body = b"".join(store(environ, start_response))
        with lock:
            log.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE"), len(body)))

        return [body]

    run_simple("127.0.0.1", port, counting, threaded=True)


def puts(address, body):
    """What makes an object: its bucket, and itself."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return (f"/{bucket}", b""), (f"/{bucket}/{key}", body)


class Store:
    """The server, as tests see it."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.url}
        self.objects, self._process = {}, None

    def start(self):
        """Start it, with all that was put into it before."""
        self._process = subprocess.Popen([sys.executable, __file__, str(self.port)], stdin=subprocess.PIPE)
        with self._process.stdin as pipe:
            pickle.dump(self.objects, pipe)

        while True:
            try:
                self.log()
                break
            except urllib.error.URLError:
                assert self._process.poll() is None, "the S3 server did not start"
                time.sleep(0.05)

    def kill(self):
        """What a network's hole looks like from here."""
        self._process.kill()
        self._process.wait()

    def die_after(self, reads):
        """Let it die by itself, in the middle of the read that comes after so many others."""
        urllib.request.urlopen(f"{self.url}{DIE}{reads}").read()

    @property
    def is_dead(self):
        """Whether it died by itself: its connections are cut a moment before it is gone."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)

        return self._process.poll() is not None

    def put(self, address, body):
        """Put bytes, or a file, at an address."""
        body = body if isinstance(body, bytes) else open(body, "rb").read()
        self.objects[address] = body
        for path, data in puts(address, body):
            urllib.request.urlopen(urllib.request.Request(self.url + path, data, HEADERS, method="PUT")).read()

        return address

    def put_folder(self, folder, address):
        """Put all files of a folder below an address."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{address}/{file.relative_to(folder).as_posix()}", file)

        return address

    def get(self, address):
        """What lies at an address."""
        request = urllib.request.Request(f"{self.url}/{address.removeprefix('s3://')}", headers=HEADERS)
        return urllib.request.urlopen(request).read()

    def log(self):
        """All requests since it was last asked, or started."""
        with urllib.request.urlopen(self.url + LOG) as answer:
            return [Request(*line) for line in json.load(answer)]


@contextmanager
def object_store():
    """A running server."""
    store = Store()
    store.start()
    try:
        yield store
    finally:
        store.kill()


if __name__ == "__main__":
    os.environ.update(KEYS)
    serve(int(sys.argv[1]), pickle.load(sys.stdin.buffer))
