"""An S3 server on loopback, and a proxy before it that loses answers, fails and hangs on request."""

import logging
import threading
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import pytest
from moto.server import ThreadedMotoServer

from actlab.store import bucket as bucket_module

_numbers = count()


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, and keeps a list of them.

    `fault(method, name)` says what becomes of one: None, "fail" (503, never passed on), "lose" (passed on,
    not answered), "hang" (passed on when `wake` is set, never answered), "mute" (neither).
    """

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = port
        self.passed = threading.Semaphore(0)
        self.calm()

    def calm(self):
        self.fault = lambda method, name: None
        self.requests = []
        self.wake = threading.Event()

    def fail(self, kind, times, method="PUT", name=""):
        """Let some of the next requests fail."""
        left = iter(range(times))

        def fault(found, path):
            return kind if found == method and name in path and next(left, None) is not None else None

        self.fault = fault

    def names(self, method):
        """Return what was asked for, without bucket and run."""
        return [path for found, path in self.requests if found == method]

    def handle_error(self, request, client_address):
        """Say nothing: a client that goes away is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def pass_on(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.path.partition(".zarr/")[2] or self.path
        self.server.requests.append((self.command, name))
        fault = self.server.fault(self.command, name)
        if fault == "hang":
            self.server.wake.wait(20)
        if fault in (None, "lose", "hang"):
            status, headers, body = self._ask(data)
            self.server.passed.release()
        if fault == "fail":
            status, headers, body = 503, [], b""
        elif fault is not None:
            if fault == "mute":
                self.server.wake.wait(20)
            self.close_connection = True
            return
        self.send_response(status)
        for key, value in headers:
            if key.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                self.send_header(key, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(body)

    def _ask(self, data):
        upstream = HTTPConnection("127.0.0.1", self.server.upstream)
        upstream.request(self.command, self.path, data, dict(self.headers))
        answer = upstream.getresponse()
        found = answer.status, answer.getheaders(), answer.read()
        upstream.close()
        return found

    def log_message(self, *arguments):
        """Say nothing."""


for _method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.pass_on)


@pytest.fixture(scope="session")
def moto_port():
    """The port of an S3 server that lives as long as the tests."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def s3(moto_port, monkeypatch):
    """The URL of a new bucket; the environment says how to reach it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto_port}")
    quick = {"init_backoff": timedelta(milliseconds=5), "max_backoff": timedelta(milliseconds=20), "base": 2}
    monkeypatch.setitem(bucket_module._RETRY, "backoff", quick)
    bucket = f"bucket{next(_numbers)}"
    server = HTTPConnection("127.0.0.1", moto_port)
    server.request("PUT", f"/{bucket}")
    assert server.getresponse().status == 200
    server.close()
    return f"s3://{bucket}"


@pytest.fixture
def proxy(s3, moto_port, monkeypatch):
    """A proxy that the environment points to."""
    server = Proxy(moto_port)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.wake.set()
    with suppress(OSError):
        server.shutdown()
    server.server_close()


@pytest.fixture
def memory():
    """The URL of a place in memory that no other test uses."""
    return f"memory://test{next(_numbers)}"
