"""Programs with weights of fewer bits are refused, by all ways to train one."""

from __future__ import annotations

import pytest
from finetune_kit import rows, small

import recfx
from recfx.errors import InputError
from recfx.learn import fake_quantize, finetune


def test_a_quantised_program_is_refused() -> None:
    model, inputs = small(bottom=(64, 64), top=(64, 64))
    fast = recfx.optimize(model, "native", example_inputs=inputs, precision="int8", measure=False)
    batches = [rows(inputs, 32)[:]]
    for given in (fast, fast.program, fast.program.as_module()):
        with pytest.raises(InputError, match=r"tables-quantised.*no gradient"):
            finetune(given, batches)
    with pytest.raises(InputError, match=r"tables-quantised.*no gradient"):
        fake_quantize(fast.program)
