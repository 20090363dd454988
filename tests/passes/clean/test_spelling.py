"""canonicalize spells each operator in one way, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pass_cases import Case, Function, check_fires, few_models, operators, program_of, run
from torch import nn

from recfx.ir import Exactness, verify_numeric
from recfx.ir.op_sets import POOLINGS
from recfx.passes.clean.aliases import ALIASES
from recfx.pipeline.properties import why_not
from recfx.testing import GraphBuilder

_aten = torch.ops.aten
ROWS = (torch.randn(5, 4),)
CUBES = (torch.randn(5, 4, 6),)
SQUARES = (torch.randn(5, 4, 4),)

#: Inputs, the function, the operator that stays, and the operators that are replaced.
SPELLINGS: dict[str, tuple[tuple[torch.Tensor, ...], Callable[[Any], Any], str, str]] = {
    "view": (CUBES, lambda x: x.view(-1, 24), "aten.reshape", "aten.view"),
    "flatten": (CUBES, lambda x: x.flatten(1), "aten.reshape", "aten.flatten.using_ints"),
    "flatten into the batch": (CUBES, lambda x: x.flatten(0, 1), "aten.reshape", "aten.flatten.using_ints"),
    "flatten of a part": (CUBES, lambda x: x.unsqueeze(1).flatten(-3, -2), "aten.reshape", "aten.flatten.using_ints"),
    "unflatten": (CUBES, lambda x: x.unflatten(-1, (2, 3)), "aten.reshape", "aten.unflatten.int"),
    "unflatten with a size to infer": (CUBES, lambda x: x.unflatten(1, (2, -1)), "aten.reshape", "aten.unflatten.int"),
    "view_as": (CUBES, lambda x: x.view_as(x.reshape(-1, 24)), "aten.reshape", "aten.view_as"),
    "reshape_as": (CUBES, lambda x: (x * 2).reshape_as(x.reshape(-1, 24)), "aten.reshape", "aten.reshape_as"),
    "transpose": (CUBES, lambda x: x.transpose(-1, 1), "aten.permute", "aten.transpose.int"),
    "transpose of equal sizes": (SQUARES, lambda x: x.transpose(1, 2), "aten.permute", "aten.transpose.int"),
    "transpose of the batch": (CUBES, lambda x: x.transpose(0, 2), "aten.permute", "aten.transpose.int"),
    "swapaxes": (CUBES, lambda x: x.swapaxes(1, 2), "aten.permute", "aten.swapaxes"),
    "swapdims": (CUBES, lambda x: x.swapdims(0, -1), "aten.permute", "aten.swapdims"),
    "t": (ROWS, lambda x: x.t(), "aten.permute", "aten.t"),
    "T": (ROWS, lambda x: x.T, "aten.permute", "aten.numpy_T"),
    "mT": (CUBES, lambda x: x.mT, "aten.permute", "aten.mT"),
    "mH": (CUBES, lambda x: x.mH, "aten.permute", "aten.mH"),
    "adjoint": (CUBES, lambda x: x.adjoint(), "aten.permute", "aten.adjoint"),
    "movedim": (CUBES, lambda x: x.movedim(0, 2), "aten.permute", "aten.movedim.int"),
    "movedim of several": (CUBES, lambda x: x.movedim((0, 2), (1, 0)), "aten.permute", "aten.movedim.intlist"),
    "moveaxis": (CUBES, lambda x: x.moveaxis(-1, 0), "aten.permute", "aten.moveaxis.int"),
    "pow 2": (ROWS, lambda x: x**2, "aten.square", "aten.pow.Tensor_Scalar"),
    "pow 2.0": (ROWS, lambda x: x.pow(2.0), "aten.square", "aten.pow.Tensor_Scalar"),
    "pow 2 of whole numbers": ((torch.arange(-3, 3),), lambda x: x**2, "aten.square", "aten.pow.Tensor_Scalar"),
    "hstack": (ROWS, lambda x: torch.hstack([x, x + 1]), "aten.cat", "aten.hstack"),
    "vstack": (ROWS, lambda x: torch.vstack([x, x + 1]), "aten.cat", "aten.vstack"),
    "dstack": (CUBES, lambda x: torch.dstack([x, x + 1]), "aten.cat", "aten.dstack"),
    "column_stack": (ROWS, lambda x: torch.column_stack([x, x + 1]), "aten.cat", "aten.column_stack"),
    "concatenate": (ROWS, lambda x: torch.concatenate([x, x + 1], 1), "aten.cat", "aten.concatenate"),
    "narrow": (ROWS, lambda x: x.narrow(1, 1, 2), "aten.slice.Tensor", "aten.narrow"),
    "narrow from the end": (ROWS, lambda x: x.narrow(1, -2, 2), "aten.slice.Tensor", "aten.narrow"),
    "norm along a dimension": (CUBES, lambda x: torch.linalg.norm(x, dim=-1), "aten.linalg_vector_norm", "aten.linalg_norm"),
    "norm of an order": (
        CUBES, lambda x: torch.linalg.norm(x, 1, 1, True), "aten.linalg_vector_norm", "aten.linalg_norm",
    ),
    "distance": (
        CUBES, lambda x: nn.functional.pairwise_distance(x, x[:, :1] * 2), "aten.linalg_vector_norm", "aten.pairwise_distance",
    ),
    "distance of an order": (
        ROWS, lambda x: nn.functional.pairwise_distance(x, x.exp(), 1.0, 1e-3, True), "aten.linalg_vector_norm",
        "aten.pairwise_distance",
    ),
    "multiply": (ROWS, lambda x: x.multiply(x + 1), "aten.mul.Tensor", "aten.multiply.Tensor"),
    "subtract, scaled": (
        ROWS, lambda x: torch.subtract(x, x.abs(), alpha=2), "aten.sub.Tensor", "aten.subtract.Tensor",
    ),
    "true_divide of whole numbers": (
        (torch.arange(1, 6),), lambda x: torch.true_divide(x, 2), "aten.div.Tensor", "aten.true_divide.Tensor",
    ),
    "divide, rounded": (
        ROWS, lambda x: torch.divide(x, x.abs() + 1, rounding_mode="floor"), "aten.div.Tensor_mode", "aten.divide",
    ),
    "rsub": (ROWS, lambda x: torch.rsub(x, x.abs(), alpha=3), "aten.sub.Tensor", "aten.rsub.Tensor"),
    "clip": (ROWS, lambda x: x.clip(-1, 1), "aten.clamp", "aten.clip"),
    "expit": (ROWS, lambda x: torch.special.expit(x), "aten.sigmoid", "aten.special_expit"),
    "greater": (ROWS, lambda x: x.greater(0.5), "aten.gt.Scalar", "aten.greater.Scalar"),
}  # fmt: skip


def _case(name: str) -> tuple[Case, str, str]:
    inputs, body, kept, gone = SPELLINGS[name]
    return Case(lambda: Function(lambda m, x: body(x)), inputs), kept, gone


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_operator_gets_its_one_spelling(name: str) -> None:
    case, kept, gone = _case(name)
    program = program_of(case)
    counts = operators(run("canonicalize", program).program)
    assert counts[kept] >= 1, counts
    assert counts[gone] == 0, counts
    verify_numeric(program, run("canonicalize", program).program, Exactness.EXACT)
    assert why_not(run("canonicalize", program).program, "canonical") is None


@pytest.mark.parametrize("reduce", [torch.sum, torch.mean])
@pytest.mark.parametrize("body", [lambda x: x > 1, lambda x: x.long()])
def test_a_sum_of_whole_numbers_in_another_dtype_is_one_of_converted_numbers(reduce: Any, body: Any) -> None:
    program = program_of(Case(lambda: Function(lambda m, x: reduce(body(x), 1, dtype=torch.float32)), ROWS))
    result = run("canonicalize", program).program
    reduced = [node for node in result.graph.nodes if node.target in POOLINGS]
    assert [node.kwargs.get("dtype") for node in reduced] == [None]
    verify_numeric(program, result, Exactness.EXACT)


@pytest.mark.parametrize("name", ["flatten", "transpose", "pow 2", "narrow"])
def test_it_fires_once_and_not_again(name: str) -> None:
    case, kept, gone = _case(name)
    check_fires("canonicalize", Case(case.model, case.inputs, 1, {gone: 0, kept: 1}), Exactness.EXACT)


STAY = {
    "a cube": (ROWS, lambda x: x**3, "aten.pow.Tensor_Scalar"),
    "whole numbers to the power of a float": ((torch.arange(5),), lambda x: x**2.0, "aten.pow.Tensor_Scalar"),
    "a product with itself": (ROWS, lambda x: x * x, "aten.mul.Tensor"),
    "one minus": (ROWS, lambda x: 1 - x, "aten.rsub.Scalar"),
    "the norm of a matrix": (CUBES, lambda x: torch.linalg.norm(x, dim=(1, 2)), "aten.linalg_norm"),
    "the norm of all": (ROWS, lambda x: torch.linalg.norm(x), "aten.linalg_norm"),
    "a norm in another dtype": (ROWS, lambda x: torch.linalg.norm(x, dim=1, dtype=torch.float64), "aten.linalg_norm"),
    "hstack of vectors": ((torch.randn(5),), lambda x: torch.hstack([x, x + 1]), "aten.hstack"),
    "column_stack of vectors": ((torch.randn(5),), lambda x: torch.column_stack([x, x + 1]), "aten.column_stack"),
    "the conjugate transpose": (CUBES, lambda x: torch.complex(x, x + 1).mH.abs(), "aten.mH"),
    "other bits": (ROWS, lambda x: x.view(torch.int32), "aten.view.dtype"),
}


@pytest.mark.parametrize("name", STAY)
def test_other_operators_keep_theirs(name: str) -> None:
    inputs, body, kept = STAY[name]
    program = program_of(Case(lambda: Function(lambda m, x: body(x)), inputs))
    result = run("canonicalize", program).program
    assert operators(result)[kept] == operators(program)[kept] > 0
    verify_numeric(program, result, Exactness.EXACT)


def test_several_sizes_that_vary_are_read() -> None:
    b = GraphBuilder({"x": ("batch", "length", 4)})
    program = b.build(b.call(_aten.unflatten.int, b.inputs["x"], 2, [2, 2]))
    result = run("canonicalize", program).program
    assert operators(result)["aten.reshape"] == 1
    verify_numeric(program, result, Exactness.EXACT)


BESIDE_SIZES_THAT_VARY: dict[str, tuple[tuple[int | str, ...], Any, tuple[Any, ...]]] = {
    "flatten before": (("batch", 2, 3, "length", 4), _aten.flatten.using_ints, (1, 2)),
    "flatten behind": (("batch", "length", 2, 3), _aten.flatten.using_ints, (2, 3)),
    "flatten to the end": (("batch", "length", 2, 3), _aten.flatten.using_ints, (2,)),
    "flatten from the end": (("batch", 2, "length", 4, 3), _aten.flatten.using_ints, (-2, -1)),
    "flatten of one": (("batch", "length", 4), _aten.flatten.using_ints, (1, 1)),
    "flatten of the last": (("batch", "length", 4), _aten.flatten.using_ints, (-1,)),
    "unflatten before": (("batch", 6, "length", 4), _aten.unflatten.int, (1, [2, 3])),
    "unflatten behind": (("batch", "length", 6), _aten.unflatten.int, (-1, [3, 2])),
    "unflatten to three": (("batch", 12, "length"), _aten.unflatten.int, (1, [2, 3, 2])),
}


@pytest.mark.parametrize("name", BESIDE_SIZES_THAT_VARY)
def test_sizes_that_vary_are_read_from_the_right_dimension(name: str) -> None:
    shape, target, arguments = BESIDE_SIZES_THAT_VARY[name]
    b = GraphBuilder({"x": shape})
    program = b.build(b.call(target, b.inputs["x"], *arguments))
    result = run("canonicalize", program).program
    assert operators(result)["aten.reshape"] == 1 or name.startswith("flatten of")
    assert operators(result)[str(target).rsplit(".", 1)[0]] == 0
    verify_numeric(program, result, Exactness.EXACT)


def test_a_product_of_sizes_that_vary_stays_flattened() -> None:
    b = GraphBuilder({"x": ("batch", "length", 4, 3)})
    program = b.build(b.call(_aten.flatten.using_ints, b.inputs["x"], 1, 2))
    result = run("canonicalize", program)
    assert operators(result.program)["aten.flatten.using_ints"] == 1
    assert any("product" in miss.reason for miss in result.records[0].misses)


def test_tied_weights_stay_tied_where_one_is_turned() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.table(ids) @ self.head.weight.t()

    program = program_of(Case(lambda: Tied().eval(), (torch.tensor([1, 2, 8]),)))
    result = run("canonicalize", program).program
    assert operators(result)["aten.permute"] == 1
    assert len({id(tensor) for tensor in result.state().values()}) == 1
    verify_numeric(program, result, Exactness.EXACT)


@pytest.mark.parametrize("alias", ALIASES, ids=str)
def test_an_alias_takes_the_arguments_of_its_name(alias: Any) -> None:
    old, new = ([(a.name, a.kwarg_only) for a in overload._schema.arguments] for overload in (alias, ALIASES[alias]))
    assert old == new
    assert ALIASES[alias] not in ALIASES


STEPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "open": lambda x: x.reshape(-1, 2, 2).flatten(1),
    "unflatten": lambda x: x.unflatten(1, (2, 2)).mT.flatten(1),
    "turn": lambda x: x.t().swapaxes(0, 1),
    "move": lambda x: x.view(-1, 2, 2).movedim(1, 2).moveaxis(2, 1).transpose(1, 2).reshape(-1, 4),
    "square": lambda x: x**2 - torch.square(x).subtract(x, alpha=2),
    "scale": lambda x: torch.multiply(x, 0.5).clip(-2, 2),
    "halves": lambda x: torch.hstack([x.narrow(1, 2, 2), x.narrow(1, 0, 2)]),
    "less": lambda x: torch.rsub(x, 1.0),
}


@few_models
@given(names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5))
def test_any_chain_of_spellings_keeps_its_bits_and_is_canonical(names: list[str]) -> None:
    def body(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for name in names:
            x = STEPS[name](x)
        return x + 1

    program = program_of(Case(lambda: Function(body), ROWS))
    result = run("canonicalize", program).program
    verify_numeric(program, result, Exactness.EXACT)
    assert why_not(result, "canonical") is None
    assert run("canonicalize", result).records[0].fired == 0
