"""Servers in processes of their own."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from recfx.errors import MeasureError

#: Server -> its command; {folder} and {port} are filled in.
COMMANDS = {
    "recfx serve": "-m recfx serve model={folder} --port {port}",
    "FastAPI, eager": "-m uvicorn --factory benchmarks.serving.peer_apps:eager --port {port} --log-level error",
    "FastAPI, compiled": "-m uvicorn --factory benchmarks.serving.peer_apps:compiled --port {port} --log-level error",
    "echo": "-m uvicorn --factory benchmarks.serving.peer_apps:echo --port {port} --log-level error",
}


@contextlib.contextmanager
def server(name: str, model: str, folder: Path) -> Iterator[int]:
    """Starts a server, waits until it listens, and ends it.

    Args:
        name: A key of `COMMANDS`.
        model: A key of `benchmarks.serving.models.MODELS`.
        folder: The saved compiled model.

    Raises:
        MeasureError: It does not listen within two minutes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [part.format(folder=folder, port=port) for part in COMMANDS[name].split()]
    environment = {**os.environ, "RECFX_BENCH_MODEL": model, "RECFX_BENCH_FOLDER": str(folder)}
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait(name, port, process)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _wait(name: str, port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120.0
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/v2")
            connection.getresponse().read()
            return
        time.sleep(0.1)
    raise MeasureError(f"{name} does not listen", where=f"port {port}", hint="run its command and read its log")
