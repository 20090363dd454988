"""Fake values of the commonest operators over whole rows, made without a fake kernel.

A fake kernel proves properties of symbolic sizes, which takes milliseconds for a reshape. Here the number of rows stays and all other sizes
are numbers, so that the sizes of the result are known. x [B, ...] is a tensor with contiguous rows:

    reshape(x, [-1 or B, ...]), unsqueeze       a view; also of more or fewer rows, if they are next to each other
    slice(x, 1, start, end), select(x, dim, i)  a view of a part of each row
    t(y), transpose(y, i, j), permute(y, dims)  a view of any tensor
    relu(x), clamp(x, 0, 6), softmax(x, dim)    one tensor of floating-point numbers, and numbers
    x * y, x + 2, rsub(x, 1)                    y like x, or a number, or a contiguous array that repeats in each row
    linear(x, w, b), addmm(b, x, w), x @ w      w a matrix
    bmm(x, y), x @ y                            the matrices of each row
    cat([x, y], dim), stack([x, y], dim)        within the rows
    sum(x, dims), mean(x, dims)                 of floating-point numbers, within the rows
    layer_norm(x, sizes, w, b), batch_norm      the latter with fixed statistics
    embedding(table, ids)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from recfx.ir import quick_products as products
from recfx.ir import quick_views as views
from recfx.ir.op_sets import ADDITIONS, POOLINGS, SIZED_RESHAPES
from recfx.ir.row_tensors import are_sizes, fixed_sizes, new_rows, row_of, same_size

_aten = torch.ops.aten
_NUMBERS = (int, float)


def quick_value(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> FakeTensor | None:
    """The fake value of an operator; None where its fake kernel must compute it.

    Args:
        target: The operator.
        args: Its positional arguments, with fake tensors.
        kwargs: Its keyword arguments.
    """
    rule = RULES.get(target)
    if rule is None or kwargs or not args:
        return None
    first = args[0][0] if type(args[0]) in (list, tuple) and args[0] else args[0]
    if type(first) is not FakeTensor or first.fake_mode.shape_env is None:
        return None
    if target in _PRODUCTS and not all(type(arg) is FakeTensor for arg in args):
        return None
    return rule(*args)


def _of_numbers(source: FakeTensor, *numbers: Any) -> FakeTensor | None:
    """A function of each element, or of each number of a row, with parameters."""
    row = row_of(source)
    if row is None or not source.is_floating_point() or not all(n is None or type(n) in _NUMBERS for n in numbers):
        return None
    return new_rows(source, row)


def _softmax(source: FakeTensor, *given: Any) -> FakeTensor | None:
    """A softmax over a dimension of the rows, or over the batch."""
    if not given or type(given[0]) is not int or not -source.ndim <= given[0] < source.ndim:
        return None
    return _of_numbers(source) if all(option in (None, False) for option in given[1:]) else None


def _combined(left: FakeTensor, *others: Any) -> FakeTensor | None:
    """Arithmetic of two tensors, or of a tensor and a number."""
    if len(others) != 1:
        return None
    (right,) = others
    if type(right) is not FakeTensor:
        return _of_numbers(left, right)
    if not products.alike(left, right) or left.dtype is torch.bool:
        return None
    row, other = row_of(left), row_of(right)
    if row is None or (row == other and same_size(left.shape[0], right.shape[0])):
        return None if row is None else new_rows(left, row)
    repeated = fixed_sizes(right)
    fits = repeated is not None and 0 < len(repeated) <= len(row) and repeated == row[len(row) - len(repeated) :]
    return new_rows(left, row) if fits else None


def _divided(left: FakeTensor, *others: Any) -> FakeTensor | None:
    """A quotient of floating-point numbers; one of integers has another dtype."""
    return _combined(left, *others) if left.is_floating_point() else None


def _joined(parts: Sequence[Any], *given: Any) -> FakeTensor | None:
    """`cat` of rows along a dimension of the rows."""
    rows, dim = _rows_of(parts), given[0] if len(given) == 1 else 0
    if rows is None or type(dim) is not int or not -len(rows[0]) - 1 <= dim <= len(rows[0]):
        return None
    place = dim % (len(rows[0]) + 1) - 1
    if place < 0 or len({(*row[:place], *row[place + 1 :]) for row in rows}) != 1:
        return None
    total = sum(row[place] for row in rows)
    return new_rows(parts[0], [*rows[0][:place], total, *rows[0][place + 1 :]])


def _stacked(parts: Sequence[Any], *given: Any) -> FakeTensor | None:
    """`stack` of rows along a new dimension of the rows."""
    rows, dim = _rows_of(parts), given[0] if len(given) == 1 else 0
    if rows is None or type(dim) is not int or not -len(rows[0]) - 2 <= dim <= len(rows[0]) + 1:
        return None
    place = dim % (len(rows[0]) + 2) - 1
    if place < 0 or any(row != rows[0] for row in rows):
        return None
    return new_rows(parts[0], [*rows[0][:place], len(rows), *rows[0][place:]])


def _rows_of(parts: Sequence[Any]) -> list[list[int]] | None:
    """The rows of tensors of one dtype, number of dimensions and batch."""
    if not parts or not all(type(part) is FakeTensor for part in parts) or not products.alike(*parts):
        return None
    rows = [row for part in parts if (row := row_of(part)) is not None]
    whole = len(rows) == len(parts) and len({len(row) for row in rows}) == 1
    return rows if whole and products.same_rows(parts) else None


def _reduced(source: FakeTensor, *given: Any) -> FakeTensor | None:
    """A sum or mean over dimensions of the rows."""
    row = row_of(source)
    if not row or not source.is_floating_point() or not given or type(given[0]) not in (list, tuple) or not given[0]:
        return None
    kept = given[1] if len(given) == 2 else False
    if len(given) > 2 or type(kept) is not bool or not all(type(d) is int and abs(d) <= len(row) for d in given[0]):
        return None
    dims = {dim % source.ndim for dim in given[0]}
    if 0 in dims or len(dims) != len(given[0]):
        return None
    if kept:
        return new_rows(source, [1 if place in dims else size for place, size in enumerate(row, 1)])
    return new_rows(source, [size for place, size in enumerate(row, 1) if place not in dims])


def _layer_norm(source: FakeTensor, sizes: Sequence[Any], *given: Any) -> FakeTensor | None:
    row, weights = row_of(source), [t for t in given[:2] if t is not None]
    if not row or not source.is_floating_point() or not sizes or not are_sizes(sizes):
        return None
    if list(sizes) != row[-len(sizes) :]:
        return None
    fits = all(type(t) is FakeTensor and products.alike(source, t) and fixed_sizes(t) == list(sizes) for t in weights)
    return new_rows(source, row) if fits else None


def _batch_norm(source: FakeTensor, *given: Any) -> FakeTensor | None:
    """A batch norm of [B, C, ...] with fixed statistics."""
    row, vectors = row_of(source), [t for t in given[:4] if t is not None]
    if not row or not source.is_floating_point() or len(given) < 5 or given[4] is not False or None in given[2:4]:
        return None
    fits = all(type(t) is FakeTensor and products.alike(source, t) and fixed_sizes(t) == row[:1] for t in vectors)
    return new_rows(source, row) if fits else None


def _copied(source: FakeTensor) -> FakeTensor | None:
    row, rows = row_of(source), source.shape[0] if source.ndim else 0
    one = type(rows) is int and rows == 1  # whose stride torch keeps
    return None if row is None or one else new_rows(source, row)


def _looked_up(table: FakeTensor, *given: Any) -> FakeTensor | None:
    ids = given[0] if given else None
    if type(ids) is not FakeTensor or ids.dtype not in (torch.int64, torch.int32):
        return None
    row, sizes = row_of(ids), fixed_sizes(table)
    one = ids.fake_device == table.fake_device and ids.fake_mode is table.fake_mode
    if row is None or sizes is None or len(sizes) != 2 or not one:
        return None
    return new_rows(ids, [*row, sizes[1]], table.dtype)


#: Functions of each number of a tensor, with numbers as further arguments.
ELEMENTWISE: tuple[Any, ...] = (
    *(_aten.relu.default, _aten.leaky_relu.default, _aten.elu.default, _aten.hardtanh.default, _aten.gelu.default),
    *(_aten.silu.default, _aten.sigmoid.default, _aten.tanh.default, _aten.softplus.default),
    *(_aten.exp.default, _aten.log.default, _aten.log1p.default, _aten.sqrt.default, _aten.rsqrt.default),
    *(_aten.square.default, _aten.sin.default, _aten.cos.default, _aten.neg.default, _aten.abs.default),
    *(_aten.clamp.default, _aten.clamp_min.default, _aten.pow.Tensor_Scalar, _aten.rsub.Scalar),
)
#: Operators all of whose arguments are tensors.
_PRODUCTS: dict[Any, Callable[..., FakeTensor | None]] = {
    _aten.linear.default: products.linear,
    _aten.addmm.default: products.addmm,
    _aten.mm.default: products.mm,
    _aten.matmul.default: products.matmul,
    _aten.bmm.default: products.batched_product,
}
#: Operator -> its fake value for its positional arguments.
RULES: dict[Any, Callable[..., FakeTensor | None]] = {
    **_PRODUCTS,
    **dict.fromkeys(SIZED_RESHAPES, views.reshaped),
    _aten.slice.Tensor: views.sliced,
    _aten.select.int: views.selected,
    _aten.unsqueeze.default: views.unsqueezed,
    _aten.squeeze.dim: views.squeezed,
    _aten.t.default: views.matrix_transposed,
    _aten.transpose.int: views.transposed,
    _aten.permute.default: views.permuted,
    **dict.fromkeys(ELEMENTWISE, _of_numbers),
    **dict.fromkeys((_aten.softmax.int, _aten._softmax.default), _softmax),
    **dict.fromkeys((_aten.mul.Tensor, *ADDITIONS), _combined),
    _aten.div.Tensor: _divided,
    _aten.cat.default: _joined,
    _aten.stack.default: _stacked,
    **dict.fromkeys(POOLINGS, _reduced),
    _aten.layer_norm.default: _layer_norm,
    _aten.batch_norm.default: _batch_norm,
    _aten.clone.default: _copied,
    _aten.embedding.default: _looked_up,
}
