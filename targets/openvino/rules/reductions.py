"""Sums, extrema, norms and softmax.

OpenVINO's ReduceMax and ReduceMin may lose NaN, and give the largest finite number in place of an infinity. Its Softmax gives NaN only at
the positions of NaN. The rules restore torch's results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from recfx.targets.openvino.rules.registry import Unsupported, rule
from recfx.targets.openvino.rules.shapes import axis_of, rank_of

_aten = torch.ops.aten
_FLOAT = torch.float32


def _positions(b: Any, dims: Any) -> list[int]:
    """Reduced dimensions, counted from the first."""
    chosen = list(range(rank_of(b))) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    return [axis_of(b, dim) for dim in chosen]


def _axes(b: Any, dims: Any) -> Any:
    return b.integers(_positions(b, dims))


def _summands(b: Any, x: Any, dtype: Any) -> Any:
    kind = b.dtype_of(b.node.args[0])
    if dtype not in (None, b.result_dtype()) or (b.result_dtype() is not _FLOAT and kind is not torch.bool):
        raise Unsupported("a sum of integers, which 32 bits may not hold")
    return b.cast(x, b.result_dtype())


@rule(_aten.sum.dim_IntList, integers=True)
def _sum(b: Any, self: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return b.op.reduce_sum(_summands(b, self, dtype), _axes(b, dim), keepdim)


@rule(_aten.sum.default, integers=True)
def _sum_all(b: Any, self: Any, *, dtype: Any = None) -> Any:
    return _sum(b, self, dtype=dtype)


@rule(_aten.mean.dim)
def _mean(b: Any, self: Any, dim: Any, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return b.op.reduce_mean(_summands(b, self, dtype), _axes(b, dim), keepdim)


@rule(_aten.mean.default)
def _mean_all(b: Any, self: Any, *, dtype: Any = None) -> Any:
    return _mean(b, self, None, dtype=dtype)


def extremum(b: Any, x: Any, axes: Any, keepdim: bool, *, largest: bool) -> Any:
    """The largest or smallest number along some dimensions. A NaN is the result if there is one, as in torch."""
    reduce = b.op.reduce_max if largest else b.op.reduce_min
    edge = b.number(-math.inf if largest else math.inf)
    at_edge = b.op.reduce_logical_and(b.op.equal(x, edge), axes, keepdim)
    lost = b.op.reduce_logical_or(b.op.is_nan(x), axes, keepdim)
    found = b.op.select(at_edge, edge, reduce(x, axes, keepdim))
    return b.op.select(lost, b.number(math.nan), found)


@rule(_aten.amax.default)
def _amax(b: Any, self: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return extremum(b, self, _axes(b, list(dim)), keepdim, largest=True)


@rule(_aten.amin.default)
def _amin(b: Any, self: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return extremum(b, self, _axes(b, list(dim)), keepdim, largest=False)


def _flags(b: Any) -> None:
    if b.dtype_of(b.node.args[0]) is not torch.bool:
        raise Unsupported("flags that are numbers")


@rule(_aten.any.dim)
def _any(b: Any, self: Any, dim: int, keepdim: bool = False) -> Any:
    _flags(b)
    return b.op.reduce_logical_or(self, _axes(b, dim), keepdim)


@rule(_aten.all.dim)
def _all(b: Any, self: Any, dim: int, keepdim: bool = False) -> Any:
    _flags(b)
    return b.op.reduce_logical_and(self, _axes(b, dim), keepdim)


@rule(_aten.cumsum.default)
def _cumsum(b: Any, self: Any, dim: int, *, dtype: Any = None) -> Any:
    return b.op.cum_sum(b.cast(self, _FLOAT), b.number(axis_of(b, dim), torch.int64))


@rule(_aten.linalg_vector_norm.default)
def _norm(b: Any, self: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if ord not in (1, 2) or dtype not in (None, _FLOAT):
        raise Unsupported(f"the norm of order {ord}")
    axes = _axes(b, None if dim is None else list(dim) if not isinstance(dim, int) else dim)
    if ord == 1:
        return b.op.reduce_sum(b.op.abs(self), axes, keepdim)
    return b.op.sqrt(b.op.reduce_sum(b.op.multiply(self, self), axes, keepdim))


def _deviation(b: Any, x: Any, dim: Any, correction: Any, keepdim: bool) -> Any:
    axes = _axes(b, dim)
    sizes = [b.size_of(b.node.args[0], axis) for axis in _positions(b, dim)]
    if not all(isinstance(size, int) for size in sizes):
        raise Unsupported("a variance over the batch")
    divisor = math.prod(sizes) - (1 if correction is None else correction)
    if divisor <= 0:
        raise Unsupported("a variance of too few numbers")
    away = b.op.subtract(x, b.op.reduce_mean(x, axes, True))
    total = b.op.reduce_sum(b.op.multiply(away, away), axes, keepdim)
    return b.op.divide(total, b.number(float(divisor)))


@rule(_aten.var.correction)
def _var(b: Any, self: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return _deviation(b, self, dim, correction, keepdim)


@rule(_aten.std.correction)
def _std(b: Any, self: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return b.op.sqrt(_deviation(b, self, dim, correction, keepdim))


def probabilities(b: Any, x: Any, axis: int) -> Any:
    """The softmax along a dimension."""
    made = b.op.softmax(x, axis)
    total = b.op.reduce_sum(made, b.integers([axis]), True)
    return b.op.add(made, b.op.subtract(total, total))  # adds 0, or NaN if the row has one


@rule(_aten.softmax.int, _aten._softmax.default)
def _softmax(b: Any, self: Any, dim: int, dtype: Any = None) -> Any:
    return probabilities(b, b.cast(self, _FLOAT), axis_of(b, dim))


@rule(_aten.log_softmax.int)
def _log_softmax(b: Any, self: Any, dim: int, dtype: Any = None) -> Any:
    x = b.cast(self, _FLOAT)
    weights = b.op.softmax(x, axis_of(b, dim))
    total = b.op.reduce_sum(weights, b.integers([axis_of(b, dim)]), True)
    return b.op.add(b.op.log_softmax(x, axis_of(b, dim)), b.op.subtract(total, total))


def _scaled(b: Any, x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else b.op.multiply(x, weight)
    return x if bias is None else b.op.add(x, bias)


def normalized(b: Any, x: Any, dimensions: int, weight: Any, bias: Any, eps: float) -> Any:
    """The layer norm over the last dimensions."""
    axes = b.integers(range(-dimensions, 0))
    return _scaled(b, b.op.mvn(x, axes, True, float(eps), "INSIDE_SQRT"), weight, bias)


@rule(_aten.layer_norm.default)
def _layer_norm(
    b: Any,
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    return normalized(b, input, len(normalized_shape), weight, bias, eps)


@rule(_aten.rms_norm.default)
def _rms_norm(b: Any, input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Any:
    axes = b.integers(range(-len(normalized_shape), 0))
    mean = b.op.reduce_mean(b.op.multiply(input, input), axes, True)
    root = b.op.sqrt(b.op.add(mean, b.number(torch.finfo(_FLOAT).eps if eps is None else float(eps))))
    return _scaled(b, b.op.divide(input, root), weight, None)


@rule(_aten.batch_norm.default)
def _batch_norm(
    b: Any,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    if training or running_mean is None or running_var is None:
        raise Unsupported("the statistics of the batch itself")
    shape = b.integers([1, -1, *[1] * (rank_of(b) - 2)])

    def wide(vector: Any) -> Any:
        return None if vector is None else b.op.reshape(vector, shape, False)

    root = b.op.sqrt(b.op.add(running_var, b.number(float(eps))))
    factor = b.op.divide(b.number(1.0) if weight is None else weight, root)
    shift = b.op.multiply(running_mean, factor)
    shift = b.op.negative(shift) if bias is None else b.op.subtract(bias, shift)
    return _scaled(b, input, wide(factor), wide(shift))


@rule(_aten.group_norm.default)
def _group_norm(
    b: Any,
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    channels = b.size_of(b.node.args[0], 1)
    if not isinstance(channels, int):
        raise Unsupported("a free number of channels")
    ones = b.numbers([1.0] * channels)
    zeros = b.numbers([0.0] * channels)
    given = (ones if weight is None else weight, zeros if bias is None else bias)
    return b.op.group_normalization(input, *given, num_groups, float(eps))
