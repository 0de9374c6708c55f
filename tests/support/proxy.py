"""A proxy in front of an object store, on the loopback interface, that fails as networks and stores do."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["500", "503", "cut", "short", "drop", "slow"]
"""An answer of 500 or 503; a body that ends before its length; a body that is half and says so; no answer at all; a
whole answer after `SLOW`."""

SLOW = 0.5
"""Seconds."""

Chooser = Callable[[str, str, int], Fault | None]
"""Of method, path and the number of the request: how it fails, or None."""

_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


@dataclass
class Faulty:
    """The proxy's state.

    Attributes:
        url: where it listens.
        choose: how a request fails; replaced by the tests.
        failed: method and fault of every request that has failed.
        seen: method and path of every request.
        served: method and path of every request that the store has answered well and whole.
    """

    url: str = ""
    choose: Chooser = lambda method, path, number: None
    failed: list[tuple[str, Fault]] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    served: list[tuple[str, str]] = field(default_factory=list)

    def begin(self, choose: Chooser) -> None:
        """Forget what was, and fail as `choose` says from now on."""
        self.failed, self.seen, self.served, self.choose = [], [], [], choose


@contextlib.contextmanager
def faulty_proxy(host: str, port: int) -> Iterator[Faulty]:
    """A proxy to host:port for the length of a `with` block."""
    state, lock = Faulty(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
            return b"".join(chunks)

        def handle_any(self) -> None:
            body = self.body()
            with lock:
                fault = state.choose(self.command, self.path, len(state.seen))
                state.seen.append((self.command, self.path))
                if fault is not None:
                    state.failed.append((self.command, fault))
            if fault == "slow":
                time.sleep(SLOW)
            if fault == "drop":
                self.close_connection = True
                return
            if fault in ("500", "503"):
                content = b"" if self.command == "HEAD" else _BUSY
                self.send_response(int(fault))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
            writing = self.command in ("PUT", "POST")
            if writing and fault in ("cut", "short"):
                body = body[: len(body) // 2]
            self.answer(body, None if writing else fault)

        def answer(self, body: bytes, fault: Fault | None) -> None:
            upstream = http.client.HTTPConnection(host, port, timeout=30)
            dropped = ("expect", "transfer-encoding", "content-length")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            upstream.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            reply = upstream.getresponse()
            content = reply.read()
            self.send_response(reply.status)
            given = reply.getheader("Content-Length") if self.command == "HEAD" else None
            shown = content[: len(content) // 2] if fault in ("cut", "short") else content
            length = given or str(len(shown if fault == "short" else content))
            for name, value in reply.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(shown)
            self.close_connection |= fault == "cut"
            if reply.status < 300 and len(shown) == len(content):
                with lock:
                    state.served.append((self.command, self.path))
            upstream.close()

    for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.handle_any)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
