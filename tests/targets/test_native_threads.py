"""Threads of calls: teams in torch's own threads, turns among many callers, forks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import recfx

CALLERS = 8

_HEAD = """
import os, sys, threading, torch, recfx
torch.set_num_threads(2)
model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1)).eval()
x = torch.randn(600, 64)
fast = recfx.optimize(model, "native", example_inputs=x, measure=False)
want = fast(x)
"""


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _run(source: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + source], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rows", [1, 7, 24, 600])
def test_calls_that_alternate_with_torchs_own_give_the_same_bits(rows: int, two_threads: None) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512)).eval()
    x = torch.randn(rows, 64)
    fast = recfx.optimize(model, "native", example_inputs=torch.randn(600, 64), measure=False)
    torch.set_num_threads(1)
    want = fast(x)
    torch.set_num_threads(2)
    other = torch.randn(400_000)
    for _ in range(20):
        assert torch.equal(fast(x), want)
        assert torch.equal(other + 1 - 1, (other + 1) - 1)


@pytest.mark.parametrize(("callers", "calls"), [(CALLERS * (os.cpu_count() or 1), 30), (80, 3)])
def test_more_callers_than_cores_all_get_their_turn(callers: int, calls: int, two_threads: None) -> None:
    """80 are more than the kernels count apart."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 3)).eval()
    fast = recfx.optimize(model, "native", example_inputs=torch.randn(600, 64), measure=False)
    batches = [torch.randn(rows, 64) for rows in (1, 20, 600)]
    want = [fast(x) for x in batches]
    with ThreadPoolExecutor(callers) as pool:
        for found in pool.map(lambda _: [fast(x) for x in batches * calls], range(callers)):
            assert all(torch.equal(a, b) for a, b in zip(found, want * calls, strict=True))


def test_a_child_forked_while_calls_run_has_turns_of_its_own() -> None:
    """Calls of the parent hold turns at the fork and never end in the child."""
    _run("""
stop = threading.Event()
def call():
    while not stop.is_set():
        fast(x)
callers = [threading.Thread(target=call) for _ in range(4 * (os.cpu_count() or 1))]
for c in callers: c.start()
right = True
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(fast(x), want) else 1)
    right &= os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
for c in callers: c.join()
raise SystemExit(0 if right and torch.equal(fast(x), want) else 1)
""")


def test_without_threads_of_torchs_every_call_runs_on_its_own() -> None:
    _run("""
from recfx.kernels.library import library
library().calls["recfx_use_openmp"](None, None, None, None)
raise SystemExit(0 if torch.equal(fast(x), want) else 1)
""")
