"""The work that optimize does grows with the number of operators, not with its square.

Work is the number of calls of Python and C functions. It does not depend on the machine.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.pair_models import PAIR_MODELS, pair_model
from recfx.capture import capture
from recfx.driver.lowering import lower
from recfx.driver.table_history import TableHistory
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.passes import default_pipeline
from recfx.pipeline import Pipeline
from recfx.targets import resolve

_FIELDS = (5, 9, 13)
#: How much more work one further operator of the largest model may be than one of the middle model: 1.09 for operation-aware products.
#: Work of the largest model of which a seventh grew with the square of its operators would exceed it.
_SLACK = 1.12


def _work(run: Callable[[], Any]) -> tuple[int, Any]:
    """The number of calls that a function makes, and its result. Finalizers of what earlier tests left are not counted."""
    calls = 0
    gc.collect()

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()
    sys.setprofile(count)
    try:
        result = run()
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return calls, result


def _stages(name: str, fields: int) -> tuple[int, int, int]:
    """Operators of a model, and the work of the passes, with what is recorded of its tables, and of the lowering."""
    model, values = pair_model(name, fields)
    program = capture(model, (values,), max_batch=64)
    (native,) = resolve("native")
    pipeline = Pipeline(default_pipeline(requests=False, kernels=native.kernels()))
    passes, result = _work(lambda: pipeline.run(program, instruments=[TableHistory(program, model)]))
    after: Program = result.program
    lowering, _ = _work(lambda: lower(after, [native], [], Exactness.REASSOC))
    return program.operator_count(), passes, lowering


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name != "pair-attention" else ()) for name in PAIR_MODELS]
)
def test_work_is_linear_in_the_number_of_operators(name: str) -> None:
    small, middle, large = (_stages(name, fields) for fields in _FIELDS)
    assert large[0] > 3 * small[0]
    for stage in (1, 2):
        first = (middle[stage] - small[stage]) / (middle[0] - small[0])
        second = (large[stage] - middle[stage]) / (large[0] - middle[0])
        assert second < first * _SLACK
