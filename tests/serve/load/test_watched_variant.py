"""The active variant is read from a server's status while a load runs."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from recfx.serve.load.variants import WatchedVariant

STATUS = {"models": [{"name": "other", "variant": "bf16"}, {"name": "dlrm", "variant": "int8"}]}


@contextmanager
def serving(status: int, body: bytes) -> Iterator[tuple[int, list[str | None]]]:
    """A server with one answer, its port, and the authorization of each request."""
    asked: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _until(condition: object) -> None:
    end = time.monotonic() + 10.0
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.01)


def test_the_variant_of_the_model_is_seen() -> None:
    begun = time.monotonic()
    with serving(200, json.dumps(STATUS).encode()) as (port, asked):
        with WatchedVariant("127.0.0.1", port, "dlrm", "secret") as watched:
            _until(lambda: len(watched.seen) >= 2)
        assert {name for _, name in watched.seen} == {"int8"}
        assert all(begun <= clock <= time.monotonic() for clock, _ in watched.seen)
        assert set(asked) == {"Bearer secret"}


@pytest.mark.parametrize(
    ("status", "body", "asks_again"),
    [(404, b"{}", False), (503, b"busy", True), (200, b"[]", True), (200, b'{"models": [{"name": "other"}]}', True)],
)
def test_other_servers_give_no_variant(status: int, body: bytes, asks_again: bool) -> None:
    with serving(status, body) as (port, asked):
        with WatchedVariant("127.0.0.1", port, "dlrm") as watched:
            _until(lambda: len(asked) >= 2 if asks_again else not watched._thread.is_alive())
        assert watched.seen == []
        assert len(asked) >= 2 if asks_again else len(asked) == 1


def test_a_server_that_is_not_there() -> None:
    with WatchedVariant("127.0.0.1", 9, "dlrm") as watched:
        time.sleep(0.05)
    assert watched.seen == []
