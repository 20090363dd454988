"""Products of float32 rows with an int8 matrix, in whole numbers. `recfx.ops.mlp` describes the rounding."""

from __future__ import annotations

import torch

from recfx.onnx.graph import OnnxGraph
from recfx.onnx.rule import Call
from recfx.onnx.types import code_of

_F32, _I32, _U8 = torch.float32, torch.int32, torch.uint8
_LIMITS = torch.finfo(_F32)

#: A power of two that makes denormal numbers normal, and the distance between neighbouring denormal numbers.
_LIFT, _STEP = 2.0**64, _LIMITS.tiny * _LIMITS.eps

#: Added to signed codes: `MatMulInteger` reads bytes without a sign.
_SHIFT = 128


class _Rows:
    """The rows of the left operand and their facts.

    Attributes:
        x: The rows, with rows of zeros in place of those that hold infinities or NaN.
        fit: Whether each row is finite [M, 1].
        all_fit: Whether all rows are finite.
        span: The largest magnitude of each row [M, 1].
    """

    def __init__(self, graph: OnnxGraph, x: str) -> None:
        columns = graph.whole(1)
        self.magnitudes = graph.op("Abs", x)
        span = graph.op("ReduceMax", self.magnitudes, columns, keepdims=1)  # skips NaN
        total = graph.op("ReduceSum", self.magnitudes, columns, keepdims=1)  # NaN if an element is
        within = graph.op("LessOrEqual", span, graph.scalar(_LIMITS.max, _F32))
        self.fit = graph.op("And", within, graph.op("Not", graph.op("IsNaN", total)))
        zero = graph.scalar(0, _F32)
        self.x = graph.op("Where", self.fit, x, zero)
        self.span = graph.op("Where", self.fit, span, zero)
        odd = graph.op("Cast", graph.op("Not", self.fit), to=code_of(_I32))
        found = graph.op(
            "ReduceMax",
            graph.op(
                "Concat", graph.op("Reshape", odd, graph.whole(-1)), graph.constant(torch.zeros(1, dtype=_I32)), axis=0
            ),
            keepdims=0,
        )
        self.any_odd = graph.op("Cast", found, to=code_of(torch.bool))


def whole_product(call: Call, x: str, weight: str, scale: str, input_scale: float) -> str:
    """x W^T for a float32 x [M, K] and an int8 W [N, K] with a scale for each of its rows.

    Args:
        call: The operator.
        x: The value of x.
        weight: The value of W.
        scale: The value of the scales [N].
        input_scale: A calibrated scale of x, or 0 for each row's own.
    """
    graph = call.graph
    rows = _Rows(graph, x)
    if input_scale > 0:
        sums, unit = _with_one_scale(graph, rows, weight, input_scale)
    else:
        sums, unit = _with_row_scales(graph, rows, weight)
    exact = graph.op("Cast", sums, to=code_of(_F32))
    (made,) = graph.branch(rows.any_odd, _odd_rows(graph, rows, x, weight, exact), _unchanged(graph, exact))
    unit = graph.op("Where", rows.fit, unit, graph.scalar(1, _F32))
    return graph.op("Mul", graph.op("Mul", made, scale), unit)


def _unsigned(graph: OnnxGraph, weight: str) -> tuple[str, str]:
    """W^T as bytes without a sign and their zero point: products of two unsigned bytes are exact on every processor."""
    wide = graph.op("Add", graph.op("Cast", weight, to=code_of(_I32)), graph.scalar(_SHIFT, _I32))
    columns = graph.op("Transpose", graph.op("Cast", wide, to=code_of(_U8)), perm=[1, 0])
    return columns, graph.scalar(_SHIFT, _U8)


def _with_one_scale(graph: OnnxGraph, rows: _Rows, weight: str, input_scale: float) -> tuple[str, str]:
    """The sums of products with codes of one scale, and the scale."""
    step = torch.full((1,), input_scale)
    codes = graph.op("Round", graph.op("Mul", rows.x, graph.constant(1 / step)))
    bounded = graph.op("Clip", codes, graph.scalar(-127, _F32), graph.scalar(127, _F32))
    shifted = graph.op("Cast", graph.op("Add", bounded, graph.scalar(_SHIFT, _F32)), to=code_of(_U8))
    columns, zero = _unsigned(graph, weight)
    sums = graph.op("MatMulInteger", shifted, columns, graph.scalar(_SHIFT, _U8), zero)
    return sums, graph.constant(step.reshape(1, 1))


def _with_row_scales(graph: OnnxGraph, rows: _Rows, weight: str) -> tuple[str, str]:
    """The sums of products with codes of each row's scale, and the scales."""
    zero, one = graph.scalar(0, _F32), graph.scalar(1, _F32)
    low = graph.op("ReduceMin", rows.x, graph.whole(1), keepdims=1)
    plain = graph.op("GreaterOrEqual", low, zero)
    levels = graph.op("Where", plain, graph.scalar(255, _F32), graph.scalar(127, _F32))
    scale = graph.op("Div", rows.span, levels)
    positive = graph.op("Greater", rows.span, zero)
    small = graph.op("And", positive, graph.op("Less", scale, graph.scalar(_LIMITS.tiny, _F32)))
    short = graph.op("And", small, graph.op("Less", graph.op("Mul", scale, levels), rows.span))
    scale = graph.op("Where", short, graph.op("Add", scale, graph.scalar(_STEP, _F32)), scale)
    lift = graph.scalar(_LIFT, _F32)
    lifted = graph.op("Div", one, graph.op("Mul", scale, lift))
    inverse = graph.op("Where", positive, graph.op("Div", levels, rows.span), zero)
    first, second = graph.op("Where", small, lift, inverse), graph.op("Where", small, lifted, one)
    codes = graph.op("Round", graph.op("Mul", graph.op("Mul", rows.x, first), second))
    shift = graph.op("Where", plain, zero, graph.scalar(_SHIFT, _F32))
    columns, middle = _unsigned(graph, weight)
    shifted = graph.op("Cast", graph.op("Add", codes, shift), to=code_of(_U8))
    sums = graph.op("MatMulInteger", shifted, columns, None, middle)
    totals = graph.op("ReduceSum", graph.op("Cast", weight, to=code_of(_I32)), graph.whole(1), keepdims=0)
    excess = graph.op("Mul", graph.op("Cast", shift, to=code_of(_I32)), totals)
    return graph.op("Sub", sums, excess), scale


def _odd_rows(graph: OnnxGraph, rows: _Rows, x: str, weight: str, exact: str) -> OnnxGraph:
    """The branch for rows with infinities or NaN, which alone decide the results of their rows."""
    inner = graph.inner()
    finite = inner.op("LessOrEqual", rows.magnitudes, inner.scalar(_LIMITS.max, _F32))
    kept = inner.op("Where", finite, inner.scalar(0, _F32), x)
    columns = inner.op("Transpose", inner.op("Cast", weight, to=code_of(_F32)), perm=[1, 0])
    inner.returns(inner.op("Where", rows.fit, exact, inner.op("MatMul", kept, columns)))
    return inner


def _unchanged(graph: OnnxGraph, exact: str) -> OnnxGraph:
    inner = graph.inner()
    inner.returns(inner.op("Identity", exact))
    return inner
