"""Several processes that serve the same models on one port; their tables are pages of the same mapped files."""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

from recfx.errors import InputError
from recfx.serve.server import listening

if TYPE_CHECKING:
    from recfx.serve.models import Source

_log = logging.getLogger("recfx.serve")

#: A process that ends sooner than this after its start is not started again at once.
_YOUNG = 5.0


def supervise(options: argparse.Namespace, named: list[tuple[str, list[Source]]]) -> int:
    """Starts the processes, starts those again that end, and ends all of them when it is told to.

    SIGTERM and SIGINT end the processes when they have answered what they took; SIGHUP makes each of them load its models again.

    Args:
        options: Those of `recfx serve`.
        named: The models.

    Raises:
        InputError: The options do not fit several processes.
        TargetError: The port is taken.
    """
    if options.grpc_port == 0:
        raise InputError(
            "several processes cannot share a free port",
            where="--grpc-port",
            hint="pass a port, such as --grpc-port 8001",
        )
    held = listening(options.host, options.port)
    held.set_inheritable(True)
    host, port = held.getsockname()[:2]
    names = ", ".join(name for name, _ in named)
    sys.stdout.write(
        f"serving {names} at http{'s' if options.certificate else ''}://{host}:{port} in {options.workers} processes\n"
    )
    sys.stdout.flush()
    return _Supervisor(options.workers, held.fileno()).run()


#: The status of a process that ended when it was told to, also before it could handle the signal.
_ENDED = (0, -signal.SIGTERM, -signal.SIGINT)


class _Supervisor:
    def __init__(self, count: int, descriptor: int) -> None:
        self._command = [sys.executable, "-m", "recfx", *sys.argv[1:], "--socket", str(descriptor)]
        self._descriptor = descriptor
        self._ending = False
        self._running: dict[subprocess.Popen[bytes], float] = {}
        self._count = count

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._forward)
        for _ in range(self._count):
            self._start()
        status = 0
        while self._running:
            time.sleep(0.05)
            for process in [process for process in self._running if process.poll() is not None]:
                begun = self._running.pop(process)
                if self._ending:
                    status = status or int(process.returncode not in _ENDED)
                    continue
                if time.monotonic() - begun < _YOUNG:
                    _log.error("a process ended with status %d after its start; the server ends", process.returncode)
                    self._end(signal.SIGTERM)
                    status = 1
                    continue
                _log.error("a process ended with status %d; another one takes its place", process.returncode)
                self._start()
        return status

    def _start(self) -> None:
        process = subprocess.Popen(self._command, pass_fds=[self._descriptor], stdout=subprocess.DEVNULL)
        self._running[process] = time.monotonic()

    def _forward(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._send(number)
        else:
            self._end(number)

    def _end(self, number: int) -> None:
        self._ending = True
        self._send(number)

    def _send(self, number: int) -> None:
        for process in self._running:
            process.send_signal(number)
