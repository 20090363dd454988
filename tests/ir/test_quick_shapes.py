"""Fake values that are made without fake kernels are those of the fake kernels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dispatch.python import enable_python_dispatcher

from recfx.ir.op_sets import ADDITIONS
from recfx.ir.propagate import fake_inputs
from recfx.ir.quick_shapes import quick_value

_aten = torch.ops.aten
_CPU = torch.device("cpu")


def fakes(*inputs: tuple[tuple[int | str, ...], torch.dtype]) -> list[torch.Tensor]:
    return fake_inputs([(shape, dtype, _CPU) for shape, dtype in inputs])


def by_kernel(target: Any, args: tuple[Any, ...]) -> torch.Tensor:
    tensor = next(a for a in args if isinstance(a, torch.Tensor))
    with torch.no_grad(), tensor.fake_mode, enable_python_dispatcher():
        made: torch.Tensor = target(*args)
    return made


def sizes(values: Any) -> list[Any]:
    return [v.node.expr if isinstance(v, torch.SymInt) else v for v in values]


def facts(value: torch.Tensor) -> Any:
    return sizes(value.shape), sizes(value.stride()), value.dtype, value.device, value.requires_grad


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


@given(
    row=st.lists(st.integers(1, 4), max_size=3),
    cut=st.tuples(st.booleans(), st.booleans()),
    target=st.sampled_from([_aten.mul.Tensor, *ADDITIONS]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64]),
)
def test_products_of_rows_are_those_of_the_kernel(
    row: list[int], cut: tuple[bool, bool], target: Any, dtype: torch.dtype
) -> None:
    wide = [row[0] + 2, *row[1:]] if row else row
    given_ = fakes(*((("batch", *(wide if c and row else row)), dtype) for c in cut))
    args = tuple(
        by_kernel(_aten.slice.Tensor, (x, 1, 1, row[0] + 1)) if c and row else x
        for x, c in zip(given_, cut, strict=True)
    )
    quick = quick_value(target, args, {})
    assert quick is not None
    assert facts(quick) == facts(by_kernel(target, args))


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
    x, weight, shift = _given((batch, row[0] + 2 * cut, *row[1:]), (outputs, row[-1]), (outputs,))
    if cut:
        x = by_kernel(_aten.slice.Tensor, (x, 1, 1, row[0] + 1))
    args = (x, weight, shift)[: 2 + bias]
    quick = quick_value(_aten.linear.default, args, {})
    assert quick is not None
    assert facts(quick) == facts(by_kernel(_aten.linear.default, args))


@given(st.data())
def test_slices_of_rows_are_those_of_the_kernel(data: st.DataObject) -> None:
    row = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3), label="row")
    start = data.draw(st.integers(-5, 5), label="start")
    end = data.draw(st.integers(-5, 6), label="end")
    (x,) = _given((data.draw(st.sampled_from(["batch", 3]), label="batch"), *row))
    args = (x, data.draw(st.integers(0, len(row)), label="dim"), start, end)
    quick = quick_value(_aten.slice.Tensor, args, {})
    if quick is None:
        assert not (args[1] == 1 and 0 <= start < end <= row[0])
        return
    want = by_kernel(_aten.slice.Tensor, args)
    assert facts(quick) == facts(want)
    assert quick.storage_offset() == want.storage_offset()
    assert quick.untyped_storage()._cdata == x.untyped_storage()._cdata


def _given(*shapes: tuple[int | str, ...], dtypes: tuple[torch.dtype, ...] = ()) -> list[torch.Tensor]:
    kinds = dtypes or (torch.float32,) * len(shapes)
    return fakes(*zip(shapes, kinds, strict=True))


#: What a fake kernel must compute -> operator and operands.
REFUSED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "the rows are joined": (_aten.reshape.default, (_given(("batch", 4))[0], [-1, 8])),
    "the rows are divided": (_aten.reshape.default, (_given(("batch", 4))[0], [-1, 2])),
    "a size of the row is inferred": (_aten.reshape.default, (_given((3, 4))[0], [3, -1])),
    "the sizes of the row vary": (_aten.reshape.default, (_given((3, "n"))[0], [3, 4])),
    "the number of rows is given": (_aten.reshape.default, (_given(("batch", 4))[0], [7, 4])),
    "a row is broadcast": (_aten.mul.Tensor, tuple(_given(("batch", 4), (4,)))),
    "another number of rows": (_aten.mul.Tensor, tuple(_given(("batch", 4), (1, 4)))),
    "types are promoted": (
        _aten.mul.Tensor, tuple(_given(("batch", 4), ("batch", 4), dtypes=(torch.float32, torch.int64)))
    ),
    "a linear of other sizes": (_aten.linear.default, tuple(_given(("batch", 4), (3, 5)))),
    "a linear with a bias of another size": (_aten.linear.default, tuple(_given(("batch", 4), (3, 4), (1,)))),
    "a linear with a weight that varies": (_aten.linear.default, tuple(_given(("batch", 4), ("n", 4)))),
    "a linear of another dtype": (
        _aten.linear.default, tuple(_given(("batch", 4), (3, 4), dtypes=(torch.float32, torch.float64)))
    ),
    "a linear of integers": (
        _aten.linear.default, tuple(_given(("batch", 4), (3, 4), dtypes=(torch.int64, torch.int64)))
    ),
    "a linear of one row": (_aten.linear.default, tuple(_given(("batch",), (3, 4)))),
    "a slice with steps": (_aten.slice.Tensor, (_given(("batch", 4))[0], 1, 0, 4, 2)),
    "a slice of the batch": (_aten.slice.Tensor, (_given(("batch", 4))[0], 0, 0, 2)),
    "a number": (_aten.mul.Tensor, (_given(("batch", 4))[0], 2.0)),
    "a division": (_aten.div.Tensor, tuple(_given(("batch", 4), ("batch", 4)))),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_operators_are_left_to_their_kernels(name: str) -> None:
    target, args = REFUSED[name]
    assert quick_value(target, args, {}) is None


def test_overlapping_and_transposed_rows_are_left_to_their_kernels() -> None:
    (x, y) = fakes((("batch", 4, 5), torch.float32), (("batch", 4), torch.float32))
    turned = by_kernel(_aten.permute.default, (x, [0, 2, 1]))
    assert quick_value(_aten.reshape.default, (turned, [-1, 20]), {}) is None
    assert quick_value(_aten.mul.Tensor, (turned, turned), {}) is None
    expanded = by_kernel(_aten.expand.default, (by_kernel(_aten.slice.Tensor, (y, 1, 0, 1)), [-1, 4]))
    assert quick_value(_aten.mul.Tensor, (expanded, y), {}) is None


def test_an_alpha_is_left_to_the_kernel() -> None:
    x, y = _given(("batch", 4), ("batch", 4))
    assert quick_value(_aten.add.Tensor, (x, y), {"alpha": 2}) is None
