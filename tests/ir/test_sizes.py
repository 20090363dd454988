"""Sizes of a signature: expressions are solved for a single unknown dimension."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

import recfx
from recfx.ir.leaves import LeafSpec
from recfx.ir.signature import Signature
from recfx.ir.sizes import dimension_names, evaluate_size, linear_size
from recfx.runtime.entry import entry_function


@given(factor=st.integers(1, 50), base=st.integers(-5, 50), size=st.integers(1, 1000))
def test_a_linear_size_gives_its_dimension_back(factor: int, base: int, size: int) -> None:
    expression = f"{factor}*batch + {base}"
    solution = linear_size(expression, ())
    assert solution == ("batch", factor, base)
    assert evaluate_size(expression, {"batch": size}) == factor * size + base


@pytest.mark.parametrize(
    ("expression", "known"),
    [("batch*dim1", ()), ("batch", ("batch",)), ("batch**2", ()), ("-batch + 3", ()), ("7", ())],
)
def test_sizes_that_are_not_linear_in_one_unknown_dimension_have_no_solution(expression: str, known: Any) -> None:
    assert linear_size(expression, known) is None


def test_names_are_those_of_the_dimensions() -> None:
    assert sorted(dimension_names("4*batch + dim1")) == ["batch", "dim1"]
    assert dimension_names(4) == []


def _signature(*shapes: tuple[int | str, ...]) -> Signature:
    values = tuple(torch.zeros(1) for _ in shapes)
    return Signature(
        parameters=tuple(f"x{i}" for i in range(len(shapes))),
        defaults={},
        in_spec=pytree.tree_flatten((values, {}))[1],
        out_spec=pytree.tree_flatten(0)[1],
        leaves=tuple(
            LeafSpec(f"x{i}", "tensor", torch.float32, torch.device("cpu"), shape) for i, shape in enumerate(shapes)
        ),
        dims={"batch": (1, 8), "dim1": (0, None)},
    )


@pytest.mark.parametrize(
    ("shapes", "sizes", "message"),
    [
        ([("4*batch",)], [(8,)], None),
        ([("4*batch",)], [(7,)], "7 is not a multiple of 4"),
        ([("4*batch",)], [(36,)], "batch = 9 is outside the captured range 1 to 8"),
        ([("4*batch",)], [(0,)], "batch = 0 is outside the captured range 1 to 8"),
        ([("4*batch",), ("batch",)], [(8,), (2,)], None),
        ([("4*batch",), ("batch",)], [(8,), (3,)], "batch is 3 here and 2 in an earlier input"),
        ([("batch + 1",), ("batch",)], [(3,), (2,)], None),
        ([("batch*dim1",), ("batch",), ("dim1",)], [(6,), (2,), (3,)], None),
        ([("batch*dim1",), ("batch",), ("dim1",)], [(7,), (2,), (3,)], "expected batch*dim1 = 6, got 7"),
    ],
)
def test_entries_check_sizes_that_are_expressions(shapes: Any, sizes: Any, message: str | None) -> None:
    signature = _signature(*shapes)
    entry = entry_function(signature, lambda *leaves: [len(leaves)])
    inputs = [torch.zeros(size) for size in sizes]
    if message is None:
        assert entry(*inputs) == len(shapes)
        signature.check(inputs)
        return
    for call in (lambda: entry(*inputs), lambda: signature.check(inputs)):
        with pytest.raises(recfx.InputError, match=re.escape(message)):
            call()


def test_a_tensor_where_the_example_had_none_is_refused() -> None:
    signature = _signature(("batch",))
    signature = dataclasses.replace(signature, leaves=(LeafSpec("x0", "constant", value=None),))
    with pytest.raises(recfx.InputError, match=r"example inputs had None here, now it is a tensor \[2\]"):
        entry_function(signature, lambda *leaves: [0])(torch.zeros(2))
