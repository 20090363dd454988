"""The cost of recfx itself: input checks of a call, capture and passes, verification. `python -m benchmarks.road`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import timeit

import torch

from recfx.capture import capture
from recfx.ir import verify_meta
from recfx.ir.program import Program
from recfx.passes import DEFAULT_PIPELINE
from recfx.pipeline import Pipeline
from recfx.runtime import entry_function
from recfx.testing import GraphBuilder
from recfx.zoo import build

TABLES = 26
_FRESH = """
import time, torch, recfx
from recfx.zoo import build
torch.set_num_threads(1)
model = build("dlrm", tables=[1000] * 26).eval()
inputs = model.example_inputs(64)
start = time.perf_counter()
fast = recfx.optimize(model, example_inputs=inputs, measure=False)
print(time.perf_counter() - start)
"""


def check_cost(tensors: int) -> float:
    """Nanoseconds of the entry's checks for each input tensor."""
    builder = GraphBuilder({f"x{i}": ("batch", 4) for i in range(tensors)})
    program = builder.build(*builder.inputs.values())

    def inner(*leaves: object) -> tuple[object, ...]:
        return leaves

    def bare(*leaves: object) -> tuple[object, ...]:
        return inner(*leaves)

    entry = entry_function(program.signature, inner)
    leaves = program.example
    checked = min(timeit.repeat(lambda: entry(*leaves), number=20_000, repeat=7)) / 20_000
    plain = min(timeit.repeat(lambda: bare(*leaves), number=20_000, repeat=7)) / 20_000
    return (checked - plain) / tensors * 1e9


def cold_seconds() -> float:
    """Seconds of capture and the default pipeline of a 26-table DLRM in a fresh process, including torch's own imports
    at first use."""
    done = subprocess.run([sys.executable, "-c", _FRESH], check=True, capture_output=True, text=True)
    return float(done.stdout)


def dlrm_program() -> tuple[Program, float]:
    """The captured 26-table DLRM, and the seconds of a warm capture."""
    model = build("dlrm", tables=[1000] * TABLES).eval()
    inputs = model.example_inputs(64)
    capture(model, inputs)
    start = timeit.default_timer()
    program = capture(model, inputs)
    return program, timeit.default_timer() - start


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    rows = [(f"input checks of a call, {n} tensors", f"{check_cost(n):.0f} ns a tensor") for n in (1, 2, 26)]
    program, seconds = dlrm_program()
    rows.append(("capture of a 26-table DLRM, warm", f"{seconds:.2f} s"))
    cold = [cold_seconds() for _ in range(3)]
    rows.append(("capture and default pipeline, fresh process, median of 3", f"{statistics.median(cold):.2f} s"))
    result = Pipeline(DEFAULT_PIPELINE).run(program)
    slowest = max(result.records, key=lambda record: record.verify_seconds)
    rows.append(
        ("slowest verification after a pass, meta level", f"{slowest.verify_seconds * 1e3:.0f} ms ({slowest.text})")
    )
    times = timeit.repeat(lambda: verify_meta(program), number=1, repeat=7)
    rows.append(
        ("verification of the captured program, meta level, median", f"{statistics.median(times) * 1e3:.0f} ms")
    )
    for what, figure in rows:
        print(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()
