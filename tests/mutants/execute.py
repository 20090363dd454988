"""Runs tests against mutants, each in a process of its own that is forked after the slow imports."""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from tests.mutants.mirror import ROOT, module_of
from tests.mutants.mutate import Mutant

SURVIVED, KILLED, TIMEOUT = "survived", "killed", "timeout"
_NO_TESTS = 5


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module the source of a mutant."""

    def __init__(self, name: str, file: str, source: str) -> None:
        self._name, self._file, self._source = name, str(ROOT / file), source

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._file, loader=self)  # type: ignore[arg-type]

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, self._file, "exec"), module.__dict__)


def warm_up() -> None:
    """Imports what every test needs and no mutant changes, so that forked processes need not."""
    import hypothesis  # noqa: F401
    import torch

    torch.set_num_threads(1)
    torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),), strict=False).module()
    assert not any(name == "recfx" or name.startswith("recfx.") for name in sys.modules)


def start(mutant: Mutant | None, tests: Sequence[str], log: str) -> int:
    """Forks a process that runs tests with a mutant in place, or without one; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(ROOT)
        if mutant is not None:
            sys.meta_path.insert(0, _Finder(module_of(mutant.file), mutant.file, mutant.source(ROOT)))
        import pytest

        os.environ["HYPOTHESIS_PROFILE"] = "ci"
        code = int(pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(code)


def outcome(pid: int, deadline: float) -> str | None:
    """What became of a process; None while it runs. One that runs past the deadline is ended."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        code = os.waitstatus_to_exitcode(status)
        return SURVIVED if code in (0, _NO_TESTS) else KILLED
    if time.monotonic() < deadline:
        return None
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return TIMEOUT
