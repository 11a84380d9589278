"""A local S3 server in a process of its own, which counts what it is asked for; `python object_store.py PORT` is that process."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import namedtuple
from contextlib import contextmanager


LOG = "/_log"
Request = namedtuple("Request", "method path range bytes")
# What every process that shall reach it needs; no other storage is reached by these.
KEYS = {
    "AWS_ACCESS_KEY_ID": "public-id",
    "AWS_SECRET_ACCESS_KEY": "very-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def serve(port):
    import logging
    from threading import Lock

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store, log, lock = DomainDispatcherApplication(create_backend_app), [], Lock()

    def counting(environ, start_response):
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


class Store:
    """The server, as tests see it."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.url}
        self._objects, self._process = {}, None

    def start(self):
        """Start it, with all that was put into it before."""
        self._process = subprocess.Popen([sys.executable, __file__, str(self.port)], stdin=subprocess.DEVNULL)
        while True:
            try:
                self.log()
                break
            except urllib.error.URLError:
                assert self._process.poll() is None, "the S3 server did not start"
                time.sleep(0.05)

        for address, body in self._objects.items():
            self._put(address, body)

        self.log()

    def kill(self):
        """What a network's hole looks like from here."""
        self._process.kill()
        self._process.wait()

    def put(self, address, body):
        """Put bytes, or a file, at an address."""
        body = body if isinstance(body, bytes) else open(body, "rb").read()
        self._objects[address] = body
        self._put(address, body)
        return address

    def put_folder(self, folder, address):
        """Put all files of a folder below an address."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{address}/{file.relative_to(folder).as_posix()}", file)

        return address

    def get(self, address):
        return urllib.request.urlopen(f"{self.url}/{address.removeprefix('s3://')}").read()

    def log(self):
        """All requests since it was last asked, or started."""
        with urllib.request.urlopen(self.url + LOG) as answer:
            return [Request(*line) for line in json.load(answer)]

    def _put(self, address, body):
        bucket, _, key = address.removeprefix("s3://").partition("/")
        for path, data in ((bucket, b""), (f"{bucket}/{key}", body)):
            request = urllib.request.Request(f"{self.url}/{path}", data, method="PUT")
            request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request")
            request.add_header("Content-Type", "application/octet-stream")
            urllib.request.urlopen(request).read()


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
    serve(int(sys.argv[1]))
