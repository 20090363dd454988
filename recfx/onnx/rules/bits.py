"""Bytes read as numbers of half or single precision."""

from __future__ import annotations

import torch

from recfx.onnx.graph import OnnxGraph
from recfx.onnx.rule import Call, rule
from recfx.onnx.types import Untranslated, code_of

_aten = torch.ops.aten
_F32, _I32 = torch.float32, torch.int32


def half_of(graph: OnnxGraph, low: str, high: str) -> str:
    """The float32 value of two bytes of half precision, given as int32: a table of all 65,536 numbers."""
    place = graph.op("Add", low, graph.op("Mul", high, graph.scalar(256, _I32)))
    halves = torch.arange(1 << 16, dtype=_I32).to(torch.int16).view(torch.float16).float()
    return graph.op("Gather", graph.constant(halves), place)


def every(graph: OnnxGraph, value: str, start: int, step: int) -> str:
    """Every `step`-th byte of the last dimension from `start` on, as int32."""
    most = graph.whole(torch.iinfo(torch.int64).max)
    part = graph.op("Slice", value, graph.whole(start), most, graph.whole(-1), graph.whole(step))
    return graph.op("Cast", part, to=code_of(_I32))


@rule(_aten.view.dtype)
def view_dtype(call: Call) -> str:
    """Bytes as half or single precision.

    Raises:
        Untranslated: Another pair of types.
    """
    source, wanted, graph = call.fake("self").dtype, call.out.dtype, call.graph
    if source is wanted:
        return call.tensor("self")
    if source is not torch.uint8 or wanted not in (torch.float16, _F32):
        raise Untranslated(f"{source} read as {wanted}")
    value = call.tensor("self")
    if wanted is torch.float16:
        return call.cast(half_of(graph, every(graph, value, 0, 2), every(graph, value, 1, 2)), _F32, wanted)
    return _single(graph, [every(graph, value, at, 4) for at in range(4)])


def _single(graph: OnnxGraph, parts: list[str]) -> str:
    """The number of four bytes of single precision, from its sign, exponent and fraction; every step is exact."""

    def number(value: int) -> str:
        return graph.scalar(value, _I32)

    first, second, third, fourth = parts
    low = graph.op("Add", first, graph.op("Mul", second, number(256)))
    fraction = graph.op("Add", low, graph.op("Mul", graph.op("Mod", third, number(128)), number(65536)))
    high = graph.op("Mul", graph.op("Mod", fourth, number(128)), number(2))
    exponent = graph.op("Add", high, graph.op("Div", third, number(128)))
    powers = torch.tensor([2.0 ** (max(e, 1) - 127) for e in range(255)] + [float("inf")])
    digits = graph.op("Mul", graph.op("Cast", fraction, to=code_of(_F32)), graph.scalar(2.0**-23, _F32))
    leading = graph.op("Cast", graph.op("Greater", exponent, number(0)), to=code_of(_F32))
    size = graph.op("Mul", graph.op("Add", digits, leading), graph.op("Gather", graph.constant(powers), exponent))
    odd = graph.op("And", graph.op("Equal", exponent, number(255)), graph.op("Greater", fraction, number(0)))
    size = graph.op("Where", odd, graph.scalar(float("nan"), _F32), size)
    negative = graph.op("GreaterOrEqual", fourth, number(128))
    return graph.op("Where", negative, graph.op("Neg", size), size)
