"""Shared by all tests: one thread in every test process (several processes share the processors), and where real data is."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from program_cases import nested_program, tiny_program

from recfx.ir import Program

settings.register_profile("default", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=40,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly", deadline=None, max_examples=2000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(  # what fails is not looked at, so it need not be small
    "mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

torch.set_num_threads(1)

#: Memory that one test process may need; the largest models of other libraries take most of it.
_BYTES_A_WORKER = 3 << 30


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many test processes `-n auto` starts: one for each processor this process may use, fewer when memory is short."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // _BYTES_A_WORKER))


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Tensors that a module draws when it is imported are the same whatever was collected before."""
    torch.manual_seed(0)


def pytest_collection_finish() -> None:
    """Keeps modules and collected tests out of garbage collection: they stay to the end, and capture makes much garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """A test draws the same whatever ran before it, so that it fails alone as it fails in the suite."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: `$RECFX_DATA`, or `shared/data` beside the repository; skips when absent."""
    folder = Path(os.environ.get("RECFX_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set RECFX_DATA)")
    return folder


@pytest.fixture(scope="module")
def tiny() -> Program:
    """A captured program that several files read and none changes."""
    return tiny_program()


@pytest.fixture(scope="module")
def nested() -> Program:
    """The same with nested inputs and outputs."""
    return nested_program()
