"""Settings of all tests: one thread in every test process (several processes share the processors), and the folder of
real data."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from program_cases import nested_program, tiny_program

from recfx.ir import Program

settings.register_profile("default", deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=20,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly", deadline=None, max_examples=2000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(  # this profile does not shrink failing examples
    "mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate]
)
settings.register_profile("reach", settings.get_profile("mutants"), max_examples=4)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

torch.set_num_threads(1)

# Captures make many objects, and the collector of reference cycles need not look at the young ones after every 700.
gc.set_threshold(50_000, 10, 10)

# Tests depend neither on the calibration of the machine that runs them, nor on the plans that earlier runs measured.
os.environ["RECFX_CALIBRATE"] = "0"
_CACHE = tempfile.TemporaryDirectory(prefix="recfx-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

#: Memory that one test process may need; the largest models of other libraries take most of it.
_BYTES_A_WORKER = 3 << 30


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The number of test processes of `-n auto`: one for each processor this process may use, or fewer if memory is
    short."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // _BYTES_A_WORKER))


def _seed() -> None:
    """Seeds torch's generators. Without a GPU in use, `torch.manual_seed` also stores a stack trace for each later device, which takes a
    hundred times longer.
    """
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Seeds torch for each module, so that tensors drawn at import do not depend on the modules collected before."""
    _seed()


def pytest_collection_finish() -> None:
    """Excludes modules and collected tests from garbage collection: they stay to the end, and capture makes much
    garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Seeds torch for each test, so that a test draws the same numbers alone and in the suite."""
    _seed()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads, which is put back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: `$RECFX_DATA`, or `shared/data` next to the repository; skips the test if it is
    absent."""
    folder = Path(os.environ.get("RECFX_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set RECFX_DATA)")
    return folder


@pytest.fixture(scope="module")
def tiny() -> Program:
    """A captured program that several test files read and do not change."""
    return tiny_program()


@pytest.fixture(scope="module")
def nested() -> Program:
    """The same with nested inputs and outputs."""
    return nested_program()
