"""The memory of `optimize`: tables are quantised one by one, and no stage copies all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from native_kit import needs_kernels

_TABLES, _ROWS, _DIM = 4, 160_000, 64
_TABLE_BYTES = _ROWS * _DIM * 4

#: Optimizes a small model first, so that imports do not count, and prints the growth of the memory for a large one.
_SCRIPT = """
import gc, json, sys, torch, recfx
from benchmarks.memory import memory, reset_peak
from recfx.zoo import DLRM

torch.set_num_threads(1)
tables, rows, dim, precision = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
for count in (50, rows):
    model = DLRM([count] * tables, 13, dim).eval()
    example = model.example_inputs(16)
    gc.collect()
    before = reset_peak()
    fast = recfx.optimize(model, "cpu", example_inputs=example, precision=precision, measure=False)
print(json.dumps([before, memory("VmHWM") - before, fast.report.state_bytes[1]]))
"""


@needs_kernels
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak of the memory"
)
@pytest.mark.parametrize(
    "precision", [pytest.param("fp32", marks=pytest.mark.slow), pytest.param("bf16", marks=pytest.mark.slow), "int8"]
)
def test_the_peak_is_the_result_and_less_than_one_more_table(precision: str) -> None:
    command = [sys.executable, "-c", _SCRIPT, *map(str, (_TABLES, _ROWS, _DIM)), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    before, growth, after = json.loads(done.stdout.splitlines()[-1])
    if not before:
        pytest.skip("the system does not reset the peak of the memory")
    new = 0 if precision == "fp32" else after
    assert growth < new + _TABLE_BYTES, f"{growth / 1e6:.0f} MB, of which the new tables are {new / 1e6:.0f} MB"
