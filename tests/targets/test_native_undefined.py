"""Operations that C++ leaves undefined neither end the process nor give other numbers than torch, at any instruction-set level."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from native_kit import needs_kernels

pytestmark = needs_kernels

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_sizes_of_zero_divisors_shifts_and_casts() -> None:
    """Runs in a process of its own, since the fault ends the process; its last line names the case that ran."""
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(TESTS / "undefined_cases.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert ran.returncode == 0, "\n".join([*ran.stdout.splitlines()[-12:], *ran.stderr.splitlines()[-12:]])
