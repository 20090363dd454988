"""`python -m recfx.serve.fork_server`: a process that imports everything a server needs, and forks the processes that serve.

Imports take about 140 MB, most of them torch's. Forked processes share these pages. The fork server runs nothing after its imports: it has
one thread, and neither the thread pools of torch and of the kernels nor an event loop, gRPC or a model exist before a fork.

Its parent writes a byte for each process to start, and reads a line of JSON for each that started or ended. When the parent closes the
connection or dies, the fork server ends; the processes that serve go on.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import os
import pickle
import selectors
import signal
import socket
import sys
import traceback
from importlib import import_module
from pathlib import Path

from recfx.command_line import not_negative, run_command
from recfx.serve.logs import configure
from recfx.serve.plan import ServerPlan

_log = logging.getLogger("recfx.serve")

#: What a server imports at its first use.
_NEEDED = ("recfx.serve.server", "recfx.targets.native", "uvicorn.lifespan.off", "uvloop", "encodings.idna")
#: What torch imports when a program is loaded: 400 modules, 25 MB. Their names may be others in other versions of torch.
_OF_TORCH = (
    "torch._inductor.config",
    "torch._inductor.sizevars",
    "torch._subclasses.schema_check_mode",
    "torch.export._trace",
    "torch.export.pt2_archive._package",
    "torch.fx.experimental.validator",
    "sympy.tensor.tensor",
)
_NEEDED_FOR_GRPC = ("recfx.serve.grpc.service",)

START = b"s"

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def parser() -> argparse.ArgumentParser:
    """The arguments, which its parent writes."""
    made = argparse.ArgumentParser("recfx serve")
    made.add_argument("--socket", type=not_negative, required=True, help="the file of the socket of all processes")
    made.add_argument("--control", type=not_negative, required=True, help="the file of the connection to the parent")
    made.add_argument("--siblings", type=Path, required=True, help="the folder in which the processes find each other")
    made.set_defaults(run=_run)
    return made


def _run(options: argparse.Namespace) -> int:
    plan = pickle.load(sys.stdin.buffer)
    assert isinstance(plan, ServerPlan)
    configure(plan.logs)
    listening, control = socket.socket(fileno=options.socket), socket.socket(fileno=options.control)
    for module in (*_NEEDED, *(_NEEDED_FOR_GRPC if plan.settings.grpc_port is not None else ())):
        import_module(module)
    for module in _OF_TORCH:
        with contextlib.suppress(ModuleNotFoundError):
            import_module(module)
    gc.collect()
    gc.freeze()  # collections in forked processes would write to the pages of all objects
    # A signal to a new process waits until it can be handled. The fork server itself ends with the connection.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    with ForkServer(control) as server:
        if server.serve():
            return 0
    _serve(plan, listening, options.siblings)
    return 0


def _serve(plan: ServerPlan, listening: socket.socket, siblings: Path) -> None:
    """Serves, in a forked process."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    plan.make(siblings).run([listening])


class ForkServer:
    """Forks processes when its parent asks, and reports those that end.

    Args:
        control: The connection to the parent.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._woken, self._wake = socket.socketpair()
        self._children: set[int] = set()
        self._forked = False
        for end in (self._woken, self._wake):
            end.setblocking(False)

    def __enter__(self) -> ForkServer:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno())
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._control, self._woken, self._wake):
            end.close()

    def serve(self) -> bool:
        """Whether this is still the fork server, and its parent has left; False in a forked process."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._control, selectors.EVENT_READ)
            ready.register(self._woken, selectors.EVENT_READ)
            while True:
                chosen = {key.fileobj for key, _ in ready.select()}
                if self._woken in chosen:
                    self._woken.recv(4096)
                    self._collect()
                if self._control in chosen:
                    asked = self._control.recv(1)
                    if not asked:
                        return True
                    if not self._start():
                        return False

    def _start(self) -> bool:
        """Forks; False in the new process."""
        child = os.fork()
        if not child:
            return False
        self._children.add(child)
        self._tell({"started": child})
        self._collect()
        return True

    def _collect(self) -> None:
        """Reports the processes that have ended."""
        for child in sorted(self._children):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                self._children.discard(child)
                self._tell({"ended": child, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, record: dict[str, int]) -> None:
        try:
            self._control.sendall(json.dumps(record).encode() + b"\n")
        except OSError:
            traceback.print_exc()


if __name__ == "__main__":
    sys.exit(run_command(parser()))
