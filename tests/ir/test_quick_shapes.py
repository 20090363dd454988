"""Fake values that are made without fake kernels are those of the fake kernels."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from fake_rows_kit import by_kernel, check_quick, dims_of, facts, fakes, fakes_of, is_one_row, limits_of, of_mode, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.ir.fake_kernels import batch_free_kernels
from recfx.ir.op_sets import ADDITIONS, JOINS, SCALINGS, SIZED_RESHAPES
from recfx.ir.quick_shapes import ELEMENTWISE, RULES, quick_value

_aten = torch.ops.aten


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


#: Numbers that follow the tensor of an operator.
_NUMBERS: dict[Any, tuple[Any, ...]] = {
    _aten.leaky_relu.default: (0.1,),
    _aten.hardtanh.default: (0, 6),
    _aten.clamp.default: (None, 1.0),
    _aten.clamp_min.default: (0,),
    _aten.pow.Tensor_Scalar: (2,),
    _aten.rsub.Scalar: (1,),
}
_SCALED = (*SCALINGS, *ADDITIONS)


@st.composite
def elementwise(draw: st.DrawFn) -> tuple[Any, tuple[Any, ...]]:
    x, target = draw(rows()), draw(st.sampled_from([*ELEMENTWISE, *_SCALED]))
    if target not in _SCALED:
        return target, (x, *_NUMBERS.get(target, ()))
    ends = [x.shape[i:] for i in range(1, x.ndim)]
    return target, (x, draw(st.sampled_from([2, 0.5, x, *(of_mode(x, *end) for end in ends)])))


@st.composite
def along_dimensions(draw: st.DrawFn) -> tuple[Any, tuple[Any, ...]]:
    x = draw(rows(1))
    dim = draw(dims_of(x))
    dims = draw(st.lists(st.integers(1, x.ndim - 1), min_size=1, unique=True))
    return draw(
        st.sampled_from(
            [
                (_aten.softmax.int, (x, dim)),
                (_aten._softmax.default, (x, dim, False)),
                (_aten.sum.dim_IntList, (x, dims)),
                (_aten.mean.dim, (x, dims, draw(st.booleans()))),
                (_aten.cat.default, ([x] * draw(st.integers(1, 3)), dim)),
                (
                    _aten.stack.default,
                    (
                        [x] * draw(st.integers(1, 3)),
                        draw(st.sampled_from([dim, x.ndim, -1, dim % x.ndim - x.ndim - 1])),
                    ),
                ),
                (_aten.layer_norm.default, (x, list(x.shape[dim:]), of_mode(x, *x.shape[dim:]))),
                (_aten.layer_norm.default, (x, list(x.shape[dim:]))),
                (_aten.relu.default if is_one_row(x) else _aten.clone.default, (x,)),
                (_aten.batch_norm.default, (x, *[of_mode(x, x.shape[1])] * 4, False, 0.1, 1e-5, True)),
            ]
        )
    )


@st.composite
def lookups(draw: st.DrawFn) -> tuple[Any, tuple[Any, ...]]:
    (ids, table) = fakes_of(
        (draw(st.sampled_from(["batch", 1, 3])), *draw(st.lists(st.integers(1, 4), max_size=2))),
        (9, draw(st.integers(1, 4))),
        dtypes=(
            draw(st.sampled_from([torch.int64, torch.int32])),
            draw(st.sampled_from([torch.float32, torch.float16])),
        ),
    )
    return _aten.embedding.default, (table, ids)


@settings(max_examples=settings().max_examples * 2)
@given(st.one_of(elementwise(), along_dimensions(), lookups()))
def test_operators_of_rows_are_those_of_the_kernel(call: tuple[Any, tuple[Any, ...]]) -> None:
    check_quick(*call)


#: What a fake kernel must compute -> operator and operands.
REFUSED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "the rows are joined": (_aten.reshape.default, (fakes_of(("batch", 4))[0], [-1, 8])),
    "rows with gaps are divided": (
        _aten.reshape.default, (by_kernel(_aten.slice.Tensor, (fakes_of(("batch", 6))[0], 1, 1, 5)), [-1, 2])
    ),
    "a size of the row is inferred": (_aten.reshape.default, (fakes_of((3, 4))[0], [3, -1])),
    "the sizes of the row vary": (_aten.reshape.default, (fakes_of((3, "n"))[0], [3, 4])),
    "the number of rows is given": (_aten.reshape.default, (fakes_of(("batch", 4))[0], [7, 4])),
    "a row is broadcast": (_aten.mul.Tensor, tuple(fakes_of(("batch", 1), (4,)))),
    "an array of more dimensions": (_aten.mul.Tensor, tuple(fakes_of(("batch", 4), (3, 1, 4)))),
    "another number of rows": (_aten.mul.Tensor, tuple(fakes_of(("batch", 4), (1, 4)))),
    "rows of another order": (_aten.mul.Tensor, tuple(fakes_of((4,), ("batch", 4)))),
    "types are promoted": (
        _aten.mul.Tensor, tuple(fakes_of(("batch", 4), ("batch", 4), dtypes=(torch.float32, torch.int64)))
    ),
    "a linear of other sizes": (_aten.linear.default, tuple(fakes_of(("batch", 4), (3, 5)))),
    "a linear with a bias of another size": (_aten.linear.default, tuple(fakes_of(("batch", 4), (3, 4), (1,)))),
    "a linear with a weight that varies": (_aten.linear.default, tuple(fakes_of(("batch", 4), ("n", 4)))),
    "a linear of another dtype": (
        _aten.linear.default, tuple(fakes_of(("batch", 4), (3, 4), dtypes=(torch.float32, torch.float64)))
    ),
    "a linear of integers": (
        _aten.linear.default, tuple(fakes_of(("batch", 4), (3, 4), dtypes=(torch.int64, torch.int64)))
    ),
    "a linear of one row": (_aten.linear.default, tuple(fakes_of(("batch",), (3, 4)))),
    "a slice of nothing": (_aten.slice.Tensor, (fakes_of(("batch", 4))[0], 1, 2, 2)),
    "a slice without an end": (_aten.slice.Tensor, (fakes_of(("batch", 4))[0], 1, 2, None)),
    "an unsqueeze before the batch": (_aten.unsqueeze.default, (fakes_of(("batch", 4))[0], 0)),
    "a squeeze of the batch": (_aten.squeeze.dim, (fakes_of(("batch", 4))[0], 0)),
    "a copy of rows of free sizes": (_aten.clone.default, (fakes_of(("batch", "n"))[0],)),
    "a batch norm in training": (
        _aten.batch_norm.default, (*fakes_of(("batch", 4), (4,), (4,), (4,), (4,)), True, 0.1, 1e-5, True)
    ),
    "a batch norm without statistics": (
        _aten.batch_norm.default, (*fakes_of(("batch", 4), (4,), (4,)), None, None, False, 0.1, 1e-5, True)
    ),
    "a batch norm of other channels": (
        _aten.batch_norm.default, (*fakes_of(("batch", 4), (3,), (3,), (3,), (3,)), False, 0.1, 1e-5, True)
    ),
    "a slice of the batch": (_aten.slice.Tensor, (fakes_of(("batch", 4))[0], 0, 0, 2)),
    "integers and a number": (_aten.mul.Tensor, (fakes_of(("batch", 4), dtypes=(torch.int64,))[0], 2.0)),
    "a number that is complex": (_aten.mul.Tensor, (fakes_of(("batch", 4))[0], 2j)),
    "a division of integers": (_aten.div.Tensor, tuple(fakes_of(*[("batch", 4)] * 2, dtypes=(torch.int64,) * 2))),
    "a function of integers": (_aten.sigmoid.default, (fakes_of(("batch", 4), dtypes=(torch.int64,))[0],)),
    "truth values": (_aten.mul.Tensor, tuple(fakes_of(*[("batch", 4)] * 2, dtypes=(torch.bool,) * 2))),
    "a bound that is a tensor": (_aten.clamp_min.default, tuple(fakes_of(("batch", 4), ("batch", 4)))),
    "a softmax in another dtype": (_aten.softmax.int, (fakes_of(("batch", 4))[0], 1, torch.float64)),
    "a softmax of another dimension": (_aten.softmax.int, (fakes_of(("batch", 4))[0], 2)),
    "a sum over the batch": (_aten.sum.dim_IntList, (fakes_of(("batch", 4))[0], [0])),
    "a sum over all dimensions": (_aten.sum.dim_IntList, (fakes_of(("batch", 4))[0], [])),
    "a sum of integers": (_aten.sum.dim_IntList, (fakes_of(("batch", 4), dtypes=(torch.int64,))[0], [1])),
    "a sum of another dtype": (_aten.sum.dim_IntList, (fakes_of(("batch", 4))[0], [1], False, torch.float64)),
    "a sum over a dimension twice": (_aten.sum.dim_IntList, (fakes_of(("batch", 4))[0], [1, -1])),
    "a cat along the batch": (_aten.cat.default, (fakes_of(("batch", 4), ("batch", 4)),)),
    "a cat of other rows": (_aten.cat.default, (fakes_of(("batch", 4, 2), ("batch", 4, 3)), 1)),
    "a cat of other batches": (_aten.cat.default, (fakes_of(("batch", 4), ("n", 4)), 1)),
    "a cat of other dtypes": (_aten.cat.default, (fakes_of(*[("batch", 4)] * 2, dtypes=(torch.float32, torch.int64)), 1)),
    "a cat with a flat tensor": (_aten.cat.default, (fakes_of(("batch", 4), (0,)), 1)),
    "a stack before the batch": (_aten.stack.default, (fakes_of(("batch", 4), ("batch", 4)),)),
    "a stack of other rows": (_aten.stack.default, (fakes_of(("batch", 4), ("batch", 3)), 1)),
    "a select of a row": (_aten.select.int, (fakes_of(("batch", 4))[0], 0, 1)),
    "a select outside": (_aten.select.int, (fakes_of(("batch", 4))[0], 1, 4)),
    "a permutation with a gap": (_aten.permute.default, (fakes_of(("batch", 4))[0], [0, 0])),
    "a product of other sizes": (_aten.matmul.default, tuple(fakes_of(("batch", 4), (3, 4)))),
    "a product with a vector": (_aten.matmul.default, tuple(fakes_of(("batch", 4), (4,)))),
    "a product of other batches": (_aten.bmm.default, tuple(fakes_of(("batch", 4, 2), ("n", 2, 4)))),
    "a sum with a bias of another size": (_aten.addmm.default, tuple(fakes_of((1,), ("batch", 4), (4, 3)))),
    "a norm over other sizes": (_aten.layer_norm.default, (fakes_of(("batch", 4))[0], [3])),
    "a norm over the batch": (_aten.layer_norm.default, (fakes_of((3, 4))[0], [3, 4])),
    "a norm with a weight of another size": (_aten.layer_norm.default, (*fakes_of(("batch", 4)), [4], *fakes_of((1,)))),
    "a lookup by floating-point numbers": (_aten.embedding.default, tuple(fakes_of((9, 5), ("batch", 4)))),
    "a lookup in a table that varies": (
        _aten.embedding.default, tuple(fakes_of(("n", 5), ("batch",), dtypes=(torch.float32, torch.int64)))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_operators_are_left_to_their_kernels(name: str) -> None:
    target, args = REFUSED[name]
    known = limits_of(args)
    assert quick_value(target, args, {}) is None
    assert limits_of(args) == known


@pytest.mark.parametrize("target", [*JOINS, _aten.unsqueeze.default])
def test_dimensions_count_from_both_ends(target: Any) -> None:
    (x,) = fakes_of(("batch", 2, 3, 4))
    joins = target is not _aten.unsqueeze.default
    ends = x.ndim if target is _aten.cat.default else x.ndim + 1
    for dim in range(1, ends):
        for place in (dim, dim - ends):
            check_quick(target, ([x, x] if joins else x, place))


def test_a_clamped_number_of_rows_is_left_to_kernels() -> None:
    """Their question whether it is one limits the batch, which makes the recorded sizes true."""
    (x,) = fakes_of(("batch", 4, 4))
    with batch_free_kernels():
        cut = by_kernel(_aten.slice.Tensor, (x, 0, -3, -2))
    assert not cut.shape[0].node.expr.is_Symbol
    assert quick_value(_aten.mul.Tensor, (x, 2.0), {}) is not None
    for target, args in ((_aten.mul.Tensor, (cut, 2.0)), (_aten.bmm.default, (cut, cut)), (_aten.relu.default, (cut,))):
        assert quick_value(target, args, {}) is None


@pytest.mark.parametrize("target", RULES)
def test_no_rule_limits_a_symbolic_size(target: Any) -> None:
    x, y, z = fakes_of(("batch", "n"), ("n", "batch"), ("m",))
    parts = target in JOINS
    of_sizes = target in (*SIZED_RESHAPES, _aten.permute.default)
    found = by_kernel(_aten.nonzero.default, (fakes_of(("batch",))[0],))  # its size and its stride are decided by data
    for tensor in (x, y, z, found):
        for others in ((), (tensor,), (2,), (1, 0), (0, 0, 1), (y, x), ([1],), ([tensor.shape[0], 2],), (0, False)):
            if of_sizes and any(isinstance(other, torch.Tensor) for other in others):
                continue
            known = limits_of((tensor,))
            with contextlib.suppress(TypeError):  # another number of arguments
                quick_value(target, ([tensor, tensor] if parts else tensor, *others), {})
            assert limits_of((tensor,)) == known, others


def test_overlapping_and_transposed_rows_are_left_to_their_kernels() -> None:
    (x, y) = fakes((("batch", 4, 5), torch.float32), (("batch", 4), torch.float32))
    turned = by_kernel(_aten.permute.default, (x, [0, 2, 1]))
    assert quick_value(_aten.reshape.default, (turned, [-1, 20]), {}) is None
    assert quick_value(_aten.mul.Tensor, (turned, turned), {}) is None
    expanded = by_kernel(_aten.expand.default, (by_kernel(_aten.slice.Tensor, (y, 1, 0, 1)), [-1, 4]))
    assert quick_value(_aten.mul.Tensor, (expanded, y), {}) is None


def test_an_alpha_is_left_to_the_kernel() -> None:
    x, y = fakes_of(("batch", 4), ("batch", 4))
    assert quick_value(_aten.add.Tensor, (x, y), {"alpha": 2}) is None
