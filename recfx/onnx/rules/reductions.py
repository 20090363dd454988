"""Reductions along dimensions, and running sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.onnx.rule import Call, dim_of, fixed, rule
from recfx.onnx.types import WHOLE, Untranslated

_aten = torch.ops.aten


def dims_of(call: Call, name: str = "dim") -> list[int]:
    """The reduced dimensions, counted from the first; all without an argument."""
    held = call.fake("self")
    given = call.given.get(name)
    if given is None or (isinstance(given, list | tuple) and not given):
        return list(range(held.ndim))
    return sorted(dim_of(dim, held) for dim in ([given] if isinstance(given, int) else given))


def reduced(call: Call, kind: str, value: str, dims: Sequence[int], *, keep: bool) -> str:
    """One of ONNX's reductions; of no dimensions, the value."""
    if not dims:
        return value
    return call.graph.op(kind, value, call.graph.whole(*dims), keepdims=int(keep))


def _keep(call: Call) -> bool:
    return bool(call.given.get("keepdim", False))


@rule(_aten.sum.dim_IntList, _aten.sum.default)
def sum_(call: Call) -> str:
    """A sum, in the type of the result."""
    return reduced(call, "ReduceSum", call.as_type(call["self"], call.out.dtype), dims_of(call), keep=_keep(call))


@rule(_aten.mean.dim, _aten.mean.default)
def mean(call: Call) -> str:
    """A mean."""
    return reduced(call, "ReduceMean", call.as_type(call["self"], call.out.dtype), dims_of(call), keep=_keep(call))


@rule(_aten.prod.default, _aten.prod.dim_int)
def prod(call: Call) -> str:
    """A product."""
    return reduced(call, "ReduceProd", call.as_type(call["self"], call.out.dtype), dims_of(call), keep=_keep(call))


def extreme(call: Call, kind: str, value: str, dtype: torch.dtype, dims: Sequence[int], *, keep: bool) -> str:
    """The largest or smallest elements. ONNX's reductions skip NaN, torch's return it."""
    if dtype is torch.bool:
        numbers = call.cast(value, dtype, torch.int32)
        return call.cast(reduced(call, kind, numbers, dims, keep=keep), torch.int32, dtype)
    made = reduced(call, kind, value, dims, keep=keep)
    if dtype in WHOLE or not dims:
        return made
    # A sum is NaN if an element is; it is also NaN for infinities of both signs, so it is not used. Bytes are quick to reduce.
    odd = call.cast(call.graph.op("IsNaN", value), torch.bool, torch.int32)
    found = call.cast(reduced(call, "ReduceMax", odd, dims, keep=keep), torch.int32, torch.bool)
    return call.graph.op("Where", found, call.graph.scalar(float("nan"), dtype), made)


@rule(_aten.amax.default, _aten.max.default)
def amax(call: Call) -> str:
    """The largest elements."""
    return extreme(call, "ReduceMax", call.tensor("self"), call.out.dtype, dims_of(call), keep=_keep(call))


@rule(_aten.amin.default, _aten.min.default)
def amin(call: Call) -> str:
    """The smallest elements."""
    return extreme(call, "ReduceMin", call.tensor("self"), call.out.dtype, dims_of(call), keep=_keep(call))


def position_of(call: Call, kind: str, value: str, dtype: torch.dtype, dim: int, *, keep: bool) -> str:
    """The position of the largest or smallest element of a dimension; that of the first NaN if there is one."""
    graph = call.graph
    made = graph.op(kind, value, axis=dim, keepdims=int(keep))
    if dtype in WHOLE:
        return made
    odd = call.cast(graph.op("IsNaN", value), torch.bool, torch.int32)
    held = call.cast(graph.op("ReduceMax", odd, graph.whole(dim), keepdims=int(keep)), torch.int32, torch.bool)
    return graph.op("Where", held, graph.op("ArgMax", odd, axis=dim, keepdims=int(keep)), made)


def _argument(call: Call, kind: str) -> str:
    held, value = call.fake("self"), call.tensor("self")
    if held.dtype is torch.bool:
        raise Untranslated("the position of a truth value")
    if call["dim"] is not None:
        return position_of(call, kind, value, held.dtype, dim_of(call["dim"], held), keep=_keep(call))
    if _keep(call):
        raise Untranslated("a position among all elements, with dimensions")
    flat = call.graph.op("Reshape", value, call.graph.whole(-1))
    return position_of(call, kind, flat, held.dtype, 0, keep=False)


@rule(_aten.argmax.default)
def argmax(call: Call) -> str:
    """The position of the largest element."""
    return _argument(call, "ArgMax")


@rule(_aten.argmin.default)
def argmin(call: Call) -> str:
    """The position of the smallest element."""
    return _argument(call, "ArgMin")


def _extreme_with_position(call: Call, reduction: str, position: str) -> list[str]:
    held, value = call.fake("self"), call.tensor("self")
    if held.dtype is torch.bool or not held.ndim:
        raise Untranslated("the position of a truth value or in a tensor without dimensions")
    dim = dim_of(call["dim"], held)
    return [
        extreme(call, reduction, value, held.dtype, [dim], keep=_keep(call)),
        position_of(call, position, value, held.dtype, dim, keep=_keep(call)),
    ]


@rule(_aten.max.dim)
def max_dim(call: Call) -> list[str]:
    """The largest elements and their positions."""
    return _extreme_with_position(call, "ReduceMax", "ArgMax")


@rule(_aten.min.dim)
def min_dim(call: Call) -> list[str]:
    """The smallest elements and their positions."""
    return _extreme_with_position(call, "ReduceMin", "ArgMin")


def _quantified(call: Call, kind: str) -> str:
    """Whether all or any elements are not zero; NaN is not zero."""
    value, dtype = call.tensor("self"), call.fake("self").dtype
    if dtype is not torch.bool:
        value = call.graph.op("Not", call.graph.op("Equal", value, call.graph.scalar(0, dtype)))
    made = reduced(call, kind, call.cast(value, torch.bool, torch.int32), dims_of(call), keep=_keep(call))
    return call.cast(made, torch.int32, call.out.dtype)


@rule(_aten.any.default, _aten.any.dim, _aten.any.dims)
def any_(call: Call) -> str:
    """Whether any element is not zero."""
    return _quantified(call, "ReduceMax")


@rule(_aten.all.default, _aten.all.dim, _aten.all.dims)
def all_(call: Call) -> str:
    """Whether all elements are not zero."""
    return _quantified(call, "ReduceMin")


@rule(_aten.linalg_vector_norm.default)
def vector_norm(call: Call) -> str:
    """The 1-norm, the 2-norm or the largest magnitude."""
    order, value = call["ord"], call.as_type(call["self"], call.out.dtype)
    return norm(call, value, order, dims_of(call), keep=_keep(call))


@rule(_aten.norm.ScalarOpt_dim, _aten.norm.Scalar)
def norm_(call: Call) -> str:
    """The 1-norm or the 2-norm."""
    return norm(call, call.tensor("self"), call["p"], dims_of(call), keep=_keep(call))


def norm(call: Call, value: str, order: Any, dims: Sequence[int], *, keep: bool) -> str:
    """A norm along dimensions."""
    if order in (2, None):
        return reduced(call, "ReduceL2", value, dims, keep=keep) if dims else call.graph.op("Abs", value)
    magnitudes = call.graph.op("Abs", value)
    if order == 1:
        return reduced(call, "ReduceSum", magnitudes, dims, keep=keep)
    if order == float("inf"):
        return extreme(call, "ReduceMax", magnitudes, call.out.dtype, dims, keep=keep)
    raise Untranslated(f"a norm of order {order}")


@rule(_aten.logsumexp.default, _aten.special_logsumexp.default)
def logsumexp(call: Call) -> str:
    """The logarithm of the sum of exponentials."""
    return reduced(call, "ReduceLogSumExp", call.as_type(call["self"], call.out.dtype), dims_of(call), keep=_keep(call))


@rule(_aten.var.correction, _aten.var.dim, _aten.std.correction, _aten.std.dim)
def variance(call: Call) -> str:
    """The variance or its root."""
    held, graph, dtype, dims = call.fake("self"), call.graph, call.out.dtype, dims_of(call)
    correction = call.given.get("correction", int(bool(call.given.get("unbiased", True))))
    correction = 1 if correction is None else correction
    count = 1
    for dim in dims:
        count *= fixed(held.shape[dim], "a variance")
    if count <= correction:
        raise Untranslated("a variance of too few elements")
    x = call.tensor("self")
    centred = graph.op("Sub", x, graph.op("ReduceMean", x, graph.whole(*dims), keepdims=1))
    total = graph.op("ReduceSumSquare", centred, graph.whole(*dims), keepdims=int(_keep(call)))
    made = graph.op("Div", total, graph.scalar(count - correction, dtype))
    return graph.op("Sqrt", made) if "std" in str(call.node.target) else made


@rule(_aten.cumsum.default)
def cumsum(call: Call) -> str:
    """Running sums, in the type of the result."""
    value = call.as_type(call["self"], call.out.dtype)
    if not call.out.ndim:
        return value
    return call.graph.op("CumSum", value, call.graph.scalar(dim_of(call["dim"], call.out), torch.int64))
