"""The conformance suite for operators of the recfx dialect, and the operators that the table of cases must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dialect_cases
import pytest
import torch
from conformance_cases import CASES
from conformance_kit import place
from hypothesis import given, settings
from hypothesis import strategies as st
from test_conformance import NAMES, backend_named

import recfx
from recfx.ir.numeric import Exactness, compare_outputs
from recfx.ir.reference_run import Reference
from recfx.ir.special_rows import EXTREME
from recfx.zoo import MODELS

#: Operators in the captured programs of other libraries' models, one a line.
FOREIGN = (Path(__file__).parent / "foreign_operators.txt").read_text().split()

#: Operators on numbers and parts of tuples, which belong to any region.
_NO_BACKEND = ("<built-in function", "aten.sym_", "aten._assert", "math.")

#: Operators whose results torch does not define: random numbers, memory that nobody has written, numbers that decide sizes.
_UNDEFINED = {"aten.exponential.default", "aten.empty_like.default", "aten.item.default"}


def covered() -> set[str]:
    """The operators with cases."""
    return {str(case.target) for case in CASES} | {str(target) for target in dialect_cases.CASES} | _UNDEFINED


@pytest.mark.parametrize("target", dialect_cases.CASES, ids=str)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_an_operator_of_the_dialect(name: str, target: Any, data: st.DataObject) -> None:
    backend = backend_named(name)
    case: dialect_cases.Case = dialect_cases.CASES[target](data.draw)
    placed = place(case.program, backend)
    assert all(reason.strip() for reason in placed.refused.values())
    # Where inputs are rounded to few bits, a last bit of float32 before the rounding becomes a last bit behind it.
    rounded = any(t.dtype in (torch.bfloat16, torch.int8) for t in case.program.state().values())
    for batch in (1, 2, 5, 33):
        leaves = case.leaves(batch, torch.Generator().manual_seed(batch))
        compare_outputs(
            case.program.run(leaves),
            placed.run(*leaves),
            backend.exactness if backend.exactness is Exactness.EXACT else Exactness.REASSOC,
            f"{EXTREME}: {batch} rows",
            Reference(case.program, leaves),
            slack=256.0 if rounded else 8.0,
            special=True,
            kernels=True,
        )


def test_the_table_holds_the_operators_of_other_libraries() -> None:
    assert len(FOREIGN) > 90
    assert not {name for name in FOREIGN if not name.startswith(_NO_BACKEND)} - covered()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_table_holds_the_operators_of_the_zoo(name: str) -> None:
    torch.manual_seed(0)
    model: Any = MODELS[name].small()  # type: ignore[attr-defined]
    found = set()
    for target in ("eager", ["native", "eager"]):
        fast = recfx.optimize(
            model.eval(), example_inputs=model.example_inputs(6), target=target, verify="structure", measure=False
        )
        found |= {str(node.target) for node in fast.program.graph.nodes if node.op == "call_function"}
    assert not {name for name in found if not name.startswith(_NO_BACKEND)} - covered()
