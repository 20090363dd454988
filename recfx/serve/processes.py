"""`ServerProcesses`: several processes that serve the same models on one port.

Their tables are pages of the same mapped files, and what they have imported are pages of the fork server that starts them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from recfx.errors import InputError
from recfx.serve.fork_server import START
from recfx.serve.models import Source
from recfx.serve.plan import ServerPlan, sources_of
from recfx.serve.server import listening

_log = logging.getLogger("recfx.serve")

#: A process that ends sooner than this after its start is not started again at once.
_YOUNG = 5.0

#: The status of a process that ended when it was told to, also before it could handle the signal.
_ENDED = (0, -signal.SIGTERM, -signal.SIGINT)


class ServerProcesses:
    """Several processes that serve the same models on one port.

    A process that ends is replaced. As a context manager the processes end with the block; `/v2/health/ready` says when one of them
    serves:

        with recfx.serve.ServerProcesses({"deepfm": "deepfm.recfx"}, 4, settings=ServerSettings(port=8000)) as processes:
            print(processes.address)

    Args:
        models: Name -> folder of a saved model, or its variants, the best first.
        count: Processes.
        options: The other fields of `ServerPlan`: settings, engine, http, tenants, updates, logs, tracing.

    Raises:
        InputError: A folder does not exist, or the settings do not fit several processes.
    """

    def __init__(self, models: Mapping[str, str | Path | Sequence[Source]], count: int, **options: Any) -> None:
        self._plan = ServerPlan(sources_of(models), **options)
        if self._plan.settings.grpc_port == 0:
            raise InputError(
                "several processes cannot share a free port",
                where="grpc_port",
                hint="pass a port, such as 8001",
            )
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"{count!r} processes", where="count", hint="pass an integer of at least 1")
        self._count = count
        self._running: dict[int, float] = {}
        self._awaited = 0
        self._forks: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ending = False
        self._socket: socket.socket | None = None
        self._folder: Path | None = None
        self._thread: threading.Thread | None = None
        self._status = 0

    @property
    def address(self) -> str:
        """The address of HTTP, such as http://127.0.0.1:8000.

        Raises:
            InputError: The processes have not been started.
        """
        if self._socket is None:
            raise InputError("the processes have not been started", hint="call start first")
        host, port = self._socket.getsockname()[:2]
        scheme = "http" if self._plan.settings.certificate is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def ids(self) -> list[int]:
        """The numbers of the processes."""
        return list(self._running)

    def start(self) -> Self:
        """Starts the processes, and watches them in a thread of its own.

        Raises:
            TargetError: The port is taken.
        """
        self._open()
        self._thread = threading.Thread(target=self._watch, name="recfx-processes", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> int:
        """Ends the processes when they have answered what they took; the exit status, 0 if none of them failed."""
        self._end(signal.SIGTERM)
        if self._thread is not None:
            self._thread.join()
        return self._status

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def run(self, ready: Callable[[Self], None] | None = None) -> int:
        """Serves until SIGTERM or SIGINT; SIGHUP makes each process load its models again. Call it in the main thread.

        Args:
            ready: Called when the socket listens.

        Returns:
            The exit status: 0 if no process failed.

        Raises:
            TargetError: The port is taken.
        """
        self._open()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._forward)
        if ready is not None:
            ready(self)
        self._watch()
        return self._status

    def _open(self) -> None:
        self._socket = listening(self._plan.settings.host, self._plan.settings.port)
        self._socket.set_inheritable(True)
        self._folder = Path(tempfile.mkdtemp(prefix="recfx-serve-"))  # which only this user can enter

    def _watch(self) -> None:
        """Starts the processes, and those again that end, until all have ended."""
        assert self._socket is not None
        assert self._folder is not None
        try:
            control = self._start_forks()
            for _ in range(self._count):
                self._start()
            for record in _records(control):
                if "started" in record:
                    self._started(record["started"])
                else:
                    self._ended(record["ended"], record["status"])
                if not self._running and not self._awaited:
                    break
            else:
                _log.error("the process that starts the others ended; the server ends")
                self._status = 1
                self._end(signal.SIGTERM)
            control.close()
            self._wait_for_orphans()
        finally:
            self._socket.close()
            for left in self._folder.iterdir():
                left.unlink(missing_ok=True)
            self._folder.rmdir()

    def _start_forks(self) -> socket.socket:
        """Starts the fork server; the connection to it."""
        assert self._socket is not None
        control, other = socket.socketpair()
        descriptors = {"--socket": self._socket.fileno(), "--control": other.fileno()}
        options = [text for name, number in descriptors.items() for text in (name, str(number))]
        self._forks = subprocess.Popen(
            [sys.executable, "-m", "recfx.serve.fork_server", *options, "--siblings", str(self._folder)],
            pass_fds=list(descriptors.values()),
            env={"OPENBLAS_NUM_THREADS": "1", **os.environ},  # NumPy's library would start threads before the forks
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        other.close()
        assert self._forks.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the connection ends as well
            self._forks.stdin.write(pickle.dumps(self._plan))
            self._forks.stdin.close()
        self._control = control
        return control

    def _wait_for_orphans(self) -> None:
        """Waits for the fork server, and for processes that it left."""
        assert self._forks is not None
        self._forks.wait()
        until = time.monotonic() + self._plan.settings.drain + _YOUNG
        while self._running and time.monotonic() < until:
            for process in self.ids:
                with contextlib.suppress(PermissionError):
                    try:
                        os.kill(process, 0)
                    except ProcessLookupError:
                        del self._running[process]
            time.sleep(0.05)
        for process in self.ids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _start(self) -> None:
        if self._ending:
            return
        assert self._control is not None
        self._awaited += 1
        with contextlib.suppress(OSError):  # the connection has ended, which `_watch` finds out
            self._control.sendall(START)

    def _started(self, process: int) -> None:
        self._awaited -= 1
        self._running[process] = time.monotonic()
        if self._ending:
            self._send(signal.SIGTERM)

    def _ended(self, process: int, status: int) -> None:
        begun = self._running.pop(process)
        if self._ending:
            self._status = self._status or int(status not in _ENDED)
        elif time.monotonic() - begun < _YOUNG:
            _log.error("a process ended with status %d after its start; the server ends", status)
            self._end(signal.SIGTERM)
            self._status = 1
        else:
            _log.error("a process ended with status %d; another one takes its place", status)
            self._start()

    def _forward(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._send(number)
        else:
            self._end(number)

    def _end(self, number: int) -> None:
        self._ending = True
        self._send(number)

    def _send(self, number: int) -> None:
        for process in self.ids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


def _records(control: socket.socket) -> Iterator[dict[str, int]]:
    """What the fork server reports, until its connection ends."""
    with control.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line)
