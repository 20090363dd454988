"""Servers in processes of their own."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from recfx.errors import MeasureError

#: Server -> its command; {folder} and {port} are filled in.
COMMANDS = {
    "recfx serve": "-m recfx serve model={folder} --port {port}",
    "FastAPI, eager": "-m uvicorn --factory benchmarks.serving.peer_apps:eager --port {port} --log-level error",
    "FastAPI, compiled": "-m uvicorn --factory benchmarks.serving.peer_apps:compiled --port {port} --log-level error",
    "recfx serve, Ray": "-m recfx serve model={folder} --port {port} --engine ray",
    "@serve.batch": "-m benchmarks.serving.ray_app --port {port}",
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
    environment = {"RECFX_BENCH_MODEL": model, "RECFX_BENCH_FOLDER": str(folder)}
    command = COMMANDS[name].replace("{folder}", str(folder)).split()
    with started(name, command, environment) as (port, _):
        yield port


@contextlib.contextmanager
def started(
    name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Starts a server, waits until it listens, and ends it; gives its port and its process.

    Args:
        name: What it is called in errors.
        command: The arguments of Python, in which {port} is filled in.
        environment: Variables beside those of this process.

    Raises:
        MeasureError: It does not listen within two minutes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    arguments = [sys.executable, *(part.replace("{port}", str(port)) for part in command)]
    process = subprocess.Popen(arguments, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL)
    try:
        _wait(name, port, process)
        yield port, process
    finally:
        process.terminate()
        process.wait(60)


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
