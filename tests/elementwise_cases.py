"""Every element-wise function that the native kernels compute, by ATen operator. A function without a row here fails a test."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional

_aten = torch.ops.aten
Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Unary:
    """A function of one float32 tensor.

    Attributes:
        function: The function as in a model.
        exact: Its definition in float64, if `function` in float64 would lose the result's relative precision.
        free_at: Values for which torch's results differ between vectors and scalars, so that any result is right.
    """

    function: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], Tensor] | None = None
    free_at: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Binary:
    """A function of two float32 tensors.

    Attributes:
        function: The function as in a model.
        signed_zeros: Whether the sign of a zero is defined.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    signed_zeros: bool = True


def _gelu(x: Tensor) -> Tensor:
    return x * 0.5 * torch.special.erfc(-x * math.sqrt(0.5))


def _gelu_tanh(x: Tensor) -> Tensor:
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _rounded(number: float) -> float:
    return float(torch.tensor(number))


def _compared(how: Callable[[Tensor, Any], Tensor]) -> list[Unary]:
    return [Unary(lambda x, c=c: how(x, c).float()) for c in (0.0, 1.5, -2.5)]


#: Operator -> its functions of one tensor.
UNARY: dict[Any, list[Unary]] = {
    _aten.relu.default: [Unary(torch.relu)],
    _aten.silu.default: [Unary(functional.silu, lambda x: x * torch.sigmoid(x))],
    _aten.sigmoid.default: [Unary(torch.sigmoid)],
    _aten.tanh.default: [Unary(torch.tanh)],
    _aten.exp.default: [Unary(torch.exp)],
    _aten.neg.default: [Unary(torch.neg)],
    _aten.abs.default: [Unary(torch.abs)],
    _aten.square.default: [Unary(torch.square)],
    _aten.erf.default: [Unary(torch.erf)],
    _aten.log.default: [Unary(torch.log)],
    _aten.sqrt.default: [Unary(torch.sqrt)],
    _aten.rsqrt.default: [Unary(torch.rsqrt)],
    _aten.reciprocal.default: [Unary(torch.reciprocal)],
    _aten.gelu.default: [
        Unary(functional.gelu, _gelu),
        Unary(lambda x: functional.gelu(x, approximate="tanh"), _gelu_tanh),
    ],
    _aten.pow.Tensor_Scalar: [
        Unary(partial(torch.pow, exponent=e), partial(torch.pow, exponent=_rounded(e)))
        for e in (0.0, 1.0, 2.0, 3.0, 4.0, 0.5, 1.5, 1 / 3, -0.5, -1.0, -2.0, -1.5)
    ],
    _aten.clamp.default: [
        Unary(lambda x, low=low, high=high: x.clamp(low, high))
        for low, high in ((0.0, 6.0), (-0.5, 0.5), (5.0, 2.0), (None, 1.0), (-math.inf, math.inf))
    ],
    _aten.clamp_min.default: [Unary(lambda x: torch.clamp_min(x, 0.25)), Unary(lambda x: torch.clamp_min(x, -0.0))],
    _aten.hardtanh.default: [
        Unary(functional.hardtanh),
        Unary(lambda x: functional.hardtanh(x, 0.0, 6.0)),
        Unary(lambda x: torch.ops.aten.hardtanh(x)),
    ],
    _aten.leaky_relu.default: [Unary(functional.leaky_relu), Unary(lambda x: functional.leaky_relu(x, 0.0))],
    _aten.rsub.Scalar: [Unary(lambda x: torch.rsub(x, 1.5))],
    _aten.add.Scalar: [Unary(lambda x: _aten.add.Scalar(x, 0.75))],
    _aten.sub.Scalar: [Unary(lambda x: _aten.sub.Scalar(x, 0.75))],
    _aten.mul.Scalar: [Unary(lambda x: _aten.mul.Scalar(x, -2.5))],
    _aten.div.Scalar: [Unary(lambda x: _aten.div.Scalar(x, 3.0))],
    _aten.masked_fill.Scalar: [Unary(lambda x: x.masked_fill(x > 1, 0.5))],
    _aten.where.ScalarSelf: [Unary(lambda x: torch.where(x > 1, 0.5, x))],
    _aten.where.ScalarOther: [Unary(lambda x: torch.where(x > 1, x, 0.5))],
    _aten.where.Scalar: [Unary(lambda x: torch.where(x > 1, 2.5, 0.5).float())],
    _aten.logical_not.default: [Unary(lambda x: torch.logical_not(x > 1).float())],
    _aten.bitwise_not.default: [Unary(lambda x: (~(x > 1)).float())],
    _aten.eq.Scalar: _compared(torch.eq),
    _aten.ne.Scalar: _compared(torch.ne),
    _aten.gt.Scalar: _compared(torch.gt),
    _aten.ge.Scalar: _compared(torch.ge),
    _aten.lt.Scalar: _compared(torch.lt),
    _aten.le.Scalar: _compared(torch.le),
    _aten.to.dtype: [Unary(lambda x: x.to(torch.bool).to(torch.float32))],
    _aten._to_copy.default: [Unary(lambda x: _aten._to_copy.default(_aten._to_copy.default(x, dtype=torch.bool), dtype=torch.float32))],
}  # fmt: skip

#: Operator -> its functions of two tensors.
BINARY: dict[Any, list[Binary]] = {
    _aten.add.Tensor: [Binary(lambda a, b: a + b)],
    _aten.sub.Tensor: [Binary(lambda a, b: a - b)],
    _aten.mul.Tensor: [Binary(lambda a, b: a * b)],
    _aten.div.Tensor: [Binary(lambda a, b: a / b)],
    _aten.maximum.default: [Binary(torch.maximum, signed_zeros=False)],
    _aten.minimum.default: [Binary(torch.minimum, signed_zeros=False)],
    _aten.where.self: [Binary(lambda a, b: torch.where(a > b, a, b))],
    _aten.masked_fill.Tensor: [Binary(lambda a, b: a.masked_fill(a < b, torch.tensor(0.5)))],
    _aten.logical_and.default: [Binary(lambda a, b: torch.logical_and(a > 0, b > 0).float())],
    _aten.logical_or.default: [Binary(lambda a, b: torch.logical_or(a > 0, b > 0).float())],
    _aten.bitwise_and.Tensor: [Binary(lambda a, b: torch.bitwise_and(a > 0, b > 0).float())],
    _aten.bitwise_or.Tensor: [Binary(lambda a, b: torch.bitwise_or(a > 0, b > 0).float())],
    _aten.__and__.Tensor: [Binary(lambda a, b: ((a > 0) & (b > 0)).float())],
    _aten.__or__.Tensor: [Binary(lambda a, b: ((a > 0) | (b > 0)).float())],
    _aten.prelu.default: [Binary(lambda a, b: functional.prelu(a, torch.tensor([0.1], dtype=a.dtype)) + b * 0)],
    _aten.eq.Tensor: [Binary(lambda a, b: (a == b).float())],
    _aten.ne.Tensor: [Binary(lambda a, b: (a != b).float())],
    _aten.gt.Tensor: [Binary(lambda a, b: (a > b).float())],
    _aten.ge.Tensor: [Binary(lambda a, b: (a >= b).float())],
    _aten.lt.Tensor: [Binary(lambda a, b: (a < b).float())],
    _aten.le.Tensor: [Binary(lambda a, b: (a <= b).float())],
}

#: Operators with a rule that are not element-wise functions of float32: they move, gather, count, fill, multiply
#: matrices or reduce. A name without an overload means all of its overloads.
OTHERS: frozenset[str] = frozenset(
    {
        "__lshift__", "__rshift__", "bitwise_left_shift", "bitwise_right_shift",
        "_softmax", "_unsafe_view", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d",
        "alias", "amax", "amin", "arange", "argsort", "attention_gru", "bmm", "cat", "chunk", "cin", "clone",
        "code_dot", "contiguous", "conv1d", "cross", "cumsum", "detach", "dot_interaction", "einsum", "embedding", "expand",
        "expand_as", "flatten", "fm", "full", "full_like", "gather", "getitem", "grouped_lookup", "index", "index_select", "layer_norm",
        "lift_fresh_copy", "linalg_vector_norm", "linear", "matmul", "mean", "mlp", "mm", "new_full", "new_ones", "new_zeros", "ones",
        "ones_like", "permute", "recurrence", "remainder", "repeat", "repeat_interleave", "reshape", "scaled_dot_product_attention",
        "select", "slice", "softmax", "sort", "split", "split_with_sizes", "squeeze", "stack", "sum", "t", "target_attention",
        "tensor_split", "tensordot", "tile", "topk", "transpose", "tril", "triu", "unbind", "unflatten", "unsafe_chunk", "unsafe_split",
        "unsafe_split_with_sizes", "unsqueeze", "view", "zeros", "zeros_like",
    }
)  # fmt: skip
