"""Fake values of views of whole rows are those of the fake kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
from fake_rows_kit import by_kernel, check_quick, dims_of, facts, fakes, fakes_of, is_one_row, of_mode, rows
from hypothesis import given
from hypothesis import strategies as st

from recfx.ir.op_sets import SIZED_RESHAPES
from recfx.ir.quick_shapes import quick_value

_aten = torch.ops.aten


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[torch.Tensor, list[Any]]:
    """A reshape of a part of rows, which may change what a row is."""
    row = draw(st.lists(st.integers(1, 4), max_size=3))
    (x,) = fakes((("batch", *row), torch.float32))
    if row and draw(st.booleans()):
        dim = draw(st.integers(1, len(row)))
        first = draw(st.integers(0, row[dim - 1] - 1))
        x = by_kernel(_aten.slice.Tensor, (x, dim, first, draw(st.integers(first + 1, row[dim - 1]))))
    length = math.prod(x.shape[1:])
    divisors = [n for n in range(1, length + 1) if length % n == 0]
    left = draw(st.sampled_from(divisors))
    wanted = draw(st.sampled_from([[length], [left, length // left], [1, length], [left, 1, length // left]]))
    return x, [draw(st.sampled_from([-1, x.shape[0]])), *wanted]


@given(reshapes())
def test_reshapes_of_rows_are_those_of_the_kernel(case: tuple[torch.Tensor, list[Any]]) -> None:
    quick = quick_value(_aten.reshape.default, case, {})
    want = by_kernel(_aten.reshape.default, case)
    if quick is not None:
        assert facts(quick) == facts(want)
        assert quick.untyped_storage()._cdata == case[0].untyped_storage()._cdata
    elif case[0].is_contiguous():
        raise AssertionError("a reshape of contiguous rows has a quick value")


@given(st.data())
def test_slices_of_rows_are_those_of_the_kernel(data: st.DataObject) -> None:
    row = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3), label="row")
    start = data.draw(st.integers(-5, 5), label="start")
    end = data.draw(st.integers(-5, 6), label="end")
    (x,) = fakes_of((data.draw(st.sampled_from(["batch", 3]), label="batch"), *row))
    step = data.draw(st.integers(1, 3), label="step")
    args = (x, data.draw(st.integers(0, len(row)), label="dim"), start, end, *([step] if step > 1 else []))
    quick = quick_value(_aten.slice.Tensor, args, {})
    if quick is None:
        assert args[1] == 0 or not len(range(row[args[1] - 1])[start:end:step])
        return
    want = by_kernel(_aten.slice.Tensor, args)
    assert facts(quick) == facts(want)
    assert quick.storage_offset() == want.storage_offset()
    assert quick.untyped_storage()._cdata == x.untyped_storage()._cdata


@st.composite
def views(draw: st.DrawFn) -> tuple[Any, tuple[Any, ...]]:
    x = draw(rows(1))
    dim = draw(dims_of(x))
    return draw(
        st.sampled_from(
            [
                (_aten.select.int, (x, dim, draw(st.integers(-x.shape[dim], x.shape[dim] - 1)))),
                (_aten.transpose.int, (x, dim, draw(dims_of(x, 0)))),
                (_aten.permute.default, (x, draw(st.permutations(range(x.ndim))))),
                (_aten.permute.default, (x, [d - x.ndim for d in draw(st.permutations(range(x.ndim)))])),
                (_aten.t.default, (of_mode(x, 3, 4),)),
                (_aten.unsqueeze.default, (x, draw(st.integers(1, x.ndim)) - draw(st.sampled_from([0, x.ndim + 1])))),
                (_aten.squeeze.dim, (x, dim)),
                (_aten.t.default, (of_mode(x, 3, 4),))
                if is_one_row(x)
                else (_aten.view.default, (x, [x.shape[0], math.prod(x.shape[1:])])),
            ]
        )
    )


@given(views())
def test_views_of_rows_are_those_of_the_kernel(call: tuple[Any, tuple[Any, ...]]) -> None:
    check_quick(*call)


@given(
    row=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    other=st.lists(st.integers(1, 4), max_size=2),
    target=st.sampled_from(SIZED_RESHAPES),
)
def test_rows_become_more_or_fewer(row: list[int], other: list[int], target: Any) -> None:
    (x,) = fakes_of(("batch", *row))
    number, wanted = math.prod(row), math.prod(other)
    many = x.shape[0] * number
    check_quick(target, (x, [many]))
    check_quick(target, (x, [-1, 1]))
    if number % wanted == 0:
        check_quick(target, (x, [-1, *other]))
        check_quick(target, (x, [x.shape[0] * (number // wanted), *other]))
    check_quick(target, (by_kernel(_aten.reshape.default, (x, [many])), [x.shape[0], *row]))


def test_turned_tensors_of_any_sizes() -> None:
    (x,) = fakes_of(("batch", "n", 3))
    check_quick(_aten.transpose.int, (x, 0, 1))
    check_quick(_aten.permute.default, (by_kernel(_aten.permute.default, (x, [2, 0, 1])), [1, 0, 2]))
