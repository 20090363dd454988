"""Starts forked processes with limits on processor time and memory, and waits for them."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable

from tests.mutants.imports import ROOT

_BYTES = 6 << 30  # memory that a process may allocate in addition to that of its parent
_PR_SET_PDEATHSIG = 1


def fork(run: Callable[[], int], seconds: int | None, limit: float) -> tuple[int, float]:
    """Starts a function in a forked process without output; returns its id and its deadline.

    The process ends with its parent.

    Args:
        run: The function, which returns the exit code.
        seconds: The limit of processor time; None for no limit.
        limit: The limit of elapsed seconds, which `wait` enforces.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid, time.monotonic() + limit
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(code)
        os.setpgid(0, 0)
        os.chdir(ROOT)
        silent = os.open(os.environ.get("MUTANTS_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        if seconds is not None:
            used = int(time.process_time())
            resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds + 10))
            held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
            resource.setrlimit(resource.RLIMIT_AS, (held + _BYTES, held + _BYTES))
        code = run()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(started: tuple[int, float]) -> int | None:
    """The exit code of a forked process; None if it reached its limit and was ended."""
    pid, deadline = started
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None
