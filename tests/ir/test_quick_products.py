"""Fake values of matrix products over whole rows are those of the fake kernels."""

from __future__ import annotations

from typing import Any

import torch
from fake_rows_kit import by_kernel, check_quick, fakes_of, of_mode, rows
from hypothesis import given
from hypothesis import strategies as st

_aten = torch.ops.aten


@given(
    row=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    outputs=st.integers(1, 5),
    bias=st.booleans(),
    cut=st.booleans(),
    batch=st.sampled_from(["batch", 1, 3]),
)
def test_linears_of_rows_are_those_of_the_kernel(
    row: list[int], outputs: int, bias: bool, cut: bool, batch: int | str
) -> None:
    x, weight, shift = fakes_of((batch, row[0] + 2 * cut, *row[1:]), (outputs, row[-1]), (outputs,))
    if cut:
        x = by_kernel(_aten.slice.Tensor, (x, 1, 1, row[0] + 1))
    check_quick(_aten.linear.default, (x, weight, shift)[: 2 + bias])


@st.composite
def products(draw: st.DrawFn) -> tuple[Any, tuple[Any, ...]]:
    x = draw(rows(1).filter(lambda x: x.ndim in (2, 3)))
    inputs, outputs = x.shape[-1], draw(st.integers(1, 4))
    weight = draw(st.sampled_from([of_mode(x, inputs, outputs), of_mode(x, outputs, inputs).t()]))
    other = by_kernel(_aten.transpose.int, (x, -1, -2)) if x.ndim == 3 else weight
    return draw(
        st.sampled_from(
            [
                (_aten.matmul.default, (x, weight)),
                (_aten.matmul.default, (x, other)),
                (_aten.bmm.default, (other, x)) if x.ndim == 3 else (_aten.mm.default, (x, weight)),
                (_aten.addmm.default, (of_mode(x, outputs), x, weight))
                if x.ndim == 2
                else (_aten.matmul.default, (x, weight)),
            ]
        )
    )


@given(products())
def test_products_of_rows_are_those_of_the_kernel(call: tuple[Any, tuple[Any, ...]]) -> None:
    check_quick(*call)
