"""Sorting. torch treats NaN as the largest number; ties keep their order."""

from __future__ import annotations

import torch

from recfx.onnx.rule import Call, dim_of, rule
from recfx.onnx.sizes import size, size_of
from recfx.onnx.types import WHOLE, Untranslated

_aten = torch.ops.aten


def _top(call: Call, count: str, *, largest: bool) -> list[str]:
    """The largest or smallest elements of a dimension, sorted, and their positions."""
    graph, held, value = call.graph, call.fake("self"), call.tensor("self")
    if held.dtype is torch.bool or not held.ndim:
        raise Untranslated("sorting of truth values or of a tensor without dimensions")
    dim = dim_of(call["dim"], held)
    keys = value
    if held.dtype not in WHOLE:
        keys = graph.op("Where", graph.op("IsNaN", value), graph.scalar(float("inf"), held.dtype), value)
    found, places = graph.ops("TopK", keys, count, count=2, axis=dim, largest=int(largest), sorted=1)
    if held.dtype not in WHOLE:
        found = graph.op("GatherElements", value, places, axis=dim)
    return [found, places]


@rule(_aten.topk.default)
def topk(call: Call) -> list[str]:
    """The largest or smallest elements of a dimension.

    Raises:
        Untranslated: The positions are read, and those of equal elements must be torch's.
    """
    if not call.graph.free_ties and any(user.args[1] == 1 for user in call.node.users):
        raise Untranslated("the positions of equal elements among the largest differ from torch's")
    return _top(call, size(call, call["k"]), largest=bool(call["largest"]))


def _whole(call: Call) -> str:
    held = call.fake("self")
    return size_of(call.graph, call.tensor("self"), held, dim_of(call["dim"], held))


@rule(_aten.sort.default, _aten.sort.stable)
def sort(call: Call) -> list[str]:
    """A dimension sorted, and the former positions."""
    return _top(call, _whole(call), largest=bool(call["descending"]))


@rule(_aten.argsort.default, _aten.argsort.stable)
def argsort(call: Call) -> str:
    """The former positions of a sorted dimension."""
    return _top(call, _whole(call), largest=bool(call["descending"]))[1]
