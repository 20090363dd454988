"""The decomposition of every operator of the dialect against its reference, and the rewrite of graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dialect_cases import CASES, Case, References
from dialect_refusals import REFUSED, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.ir.functional_ops import is_inplace
from recfx.ir.operators import ATEN, DIALECT
from recfx.ir.program import Program
from recfx.ir.propagate import propagate as fake_values
from recfx.ir.reference_run import run_in_float64
from recfx.ops import decompose, propagation, ranking
from recfx.ops.library import DECOMPOSITIONS

#: The largest ratio of the errors of a decomposition and of its reference, both against float64.
FACTOR = 4.0

BATCHES = (1, 2, 5, 33)


def require_close(found: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor) -> None:
    """The errors are within FACTOR and a few last bits; infinities and NaN are at the same positions."""
    assert (found.shape, found.dtype) == (plain.shape, plain.dtype)
    odd = ~plain.isfinite()
    torch.testing.assert_close(found[odd], plain[odd], rtol=0, atol=0, equal_nan=True)
    found, plain, exact = (t[~odd].double() for t in (found, plain, exact))
    scale = float(exact.abs().max()) if exact.numel() else 0.0
    away, allowed = (found - exact).abs(), FACTOR * float((plain - exact).abs().max() if exact.numel() else 0.0)
    assert not found.numel() or float(away.max()) <= allowed + 16 * torch.finfo(torch.float32).eps * scale


def require_aten(program: Program) -> None:
    """The graph has only operators of ATen, writes nothing in place, and its recorded values follow from its inputs."""
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert node.target.namespace == "aten", node
            assert node.target._schema.name.removeprefix("aten::") in ATEN, f"a saved model may not call {node.target}"
        assert not is_inplace(node)
    for node, value in fake_values(program.module).items():
        if isinstance(value, torch.Tensor):
            assert node.meta["val"].shape == value.shape, node


def check(case: Case, seed: int) -> None:
    made = decompose(case.program)
    require_aten(made)
    for batch in BATCHES:
        leaves = case.leaves(batch, torch.Generator().manual_seed(seed + batch))
        exact = run_in_float64(case.program, leaves)
        with torch.no_grad():
            plain = References(case.program.module).run(*leaves)
        for found, expected, truth in zip(made.run(leaves), plain, exact, strict=True):
            require_close(found, expected, truth)


def test_every_operator_has_cases_and_a_decomposition() -> None:
    assert set(CASES) == set(DIALECT) == set(DECOMPOSITIONS), "add cases of the operator to tests/dialect_cases.py"


@pytest.mark.parametrize("target", CASES, ids=str)
@settings(max_examples=6)
@given(data=st.data())
def test_a_decomposition_gives_what_the_reference_gives(target: Any, data: st.DataObject) -> None:
    check(CASES[target](data.draw), data.draw(st.integers(0, 2**32), label="seed of inputs"))


@pytest.mark.nightly
@pytest.mark.parametrize("target", CASES, ids=str)
@settings(max_examples=300)
@given(data=st.data())
def test_a_decomposition_gives_what_the_reference_gives_in_many_cases(target: Any, data: st.DataObject) -> None:
    check(CASES[target](data.draw), data.draw(st.integers(0, 2**32), label="seed of inputs"))


@pytest.mark.parametrize("why", REFUSED)
def test_what_a_reference_refuses_its_decomposition_refuses(why: str) -> None:
    program, leaves = refused(why)
    made = decompose(program)
    for each in (program, made):
        with pytest.raises((IndexError, RuntimeError)):
            each.run(leaves)


def test_the_gradient_of_propagation() -> None:
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rest = (torch.tensor([0, 1, 3, 4]), torch.tensor([1, 0, 2, 1]), torch.rand(3) + 0.5, [0.5, -1.0, 2.0])
    plain, made = (f(x, *rest) for f in (propagation.propagate, DECOMPOSITIONS[propagation.propagate]))
    wanted, found = (torch.autograd.grad(y.square().sum(), x)[0] for y in (plain, made))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("joint", [False, True])
def test_the_gradient_of_the_ranking_loss(joint: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    tables = [torch.randn(rows, 3, generator=rng, requires_grad=True) for rows in (3, 4)]
    ids = (torch.tensor([0, 2]), torch.tensor([3, 1]), torch.tensor([[0, 2], [2, 2]]))
    for result in range(3):
        made = DECOMPOSITIONS[ranking.bpr](*tables, *ids, joint)[result]
        assert made.requires_grad == (result == 0)
    plain, made = (f(*tables, *ids, joint)[0] for f in (ranking.bpr, DECOMPOSITIONS[ranking.bpr]))
    for found, wanted in zip(torch.autograd.grad(made, tables), torch.autograd.grad(plain, tables), strict=True):
        torch.testing.assert_close(found, wanted)
