"""Parts of tensors: slices, selected positions, splits, diagonals and triangles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import EQUAL_SPLITS
from recfx.onnx.rule import Call, dim_of, fixed, rule
from recfx.onnx.sizes import size, size_of
from recfx.onnx.types import Untranslated

_aten = torch.ops.aten
_MOST = torch.iinfo(torch.int64).max


def sliced(call: Call, value: str, dim: int, start: Any, end: Any, step: int = 1) -> str:
    """Part of a dimension, from `start` to before `end`."""
    graph = call.graph
    if start in (None, 0) and end in (None, _MOST) and step == 1:
        return value
    bounds = [size(call, default if one is None else one) for one, default in ((start, 0), (end, _MOST))]
    return graph.op("Slice", value, *bounds, graph.whole(dim), graph.whole(step))


@rule(_aten.slice.Tensor)
def slice_(call: Call) -> str:
    """Part of a dimension."""
    given, held = call.given, call.fake("self")
    return sliced(call, call.tensor("self"), dim_of(given["dim"], held), given["start"], given["end"], given["step"])


@rule(_aten.narrow.default)
def narrow(call: Call) -> str:
    """A number of elements of a dimension from a start on."""
    start, length, graph = call["start"], call["length"], call.graph
    first = size(call, start)
    if isinstance(start, int) and start < 0:
        first = graph.op(
            "Add", size_of(graph, call.tensor("self"), call.fake("self"), dim_of(call["dim"], call.fake("self"))), first
        )
    end = graph.op("Add", first, size(call, length))
    dim = graph.whole(dim_of(call["dim"], call.fake("self")))
    return graph.op("Slice", call.tensor("self"), first, end, dim)


@rule(_aten.select.int)
def select(call: Call) -> str:
    """One position of a dimension, which disappears."""
    index, dim = call["index"], dim_of(call["dim"], call.fake("self"))
    at = call.graph.scalar(index, torch.int64) if isinstance(index, int) else call.as_type(index, torch.int64)
    return call.graph.op("Gather", call.tensor("self"), at, axis=dim)


def _parts(call: Call, lengths: Sequence[int], dim: int) -> list[str | None]:
    """Consecutive parts of a dimension; None for parts that no operator reads."""
    used = {user.args[1] for user in call.node.users}
    value, starts, found = call.tensor("self"), 0, list[str | None]()
    if len(used) == len(lengths) > 1 and all(lengths):
        return list(call.graph.ops("Split", value, call.graph.whole(*lengths), count=len(lengths), axis=dim))
    for at, length in enumerate(lengths):
        found.append(sliced(call, value, dim, starts, starts + length) if at in used else None)
        starts += length
    return found


@rule(*EQUAL_SPLITS, _aten.tensor_split.indices)
def split(call: Call) -> list[str | None]:
    """Consecutive parts, whose lengths are known from the results."""
    held = call.fake("self")
    dim = dim_of(call["dim"], held)
    lengths = [fixed(part.shape[dim], "parts") for part in call.node.meta["val"]]
    return _parts(call, lengths, dim)


@rule(_aten.split_with_sizes.default, _aten.split.sizes)
def split_with_sizes(call: Call) -> list[str | None]:
    """Consecutive parts of given lengths."""
    held = call.fake("self")
    dim = dim_of(call["dim"], held)
    lengths = [part.shape[dim] for part in call.node.meta["val"]]
    if all(isinstance(one, int) for one in lengths):
        return _parts(call, lengths, dim)
    given = next(call.given[name] for name in ("split_sizes", "split_size") if name in call.given)
    bound = call.graph.op("Concat", *(size(call, one) for one in given), axis=0)
    return list(call.graph.ops("Split", call.tensor("self"), bound, count=len(lengths), axis=dim))


@rule(_aten.unbind.int)
def unbind(call: Call) -> list[str | None]:
    """Every position of a dimension."""
    dim = dim_of(call["dim"], call.fake("self"))
    used = {user.args[1] for user in call.node.users}
    graph, value = call.graph, call.tensor("self")
    return [
        graph.op("Gather", value, graph.scalar(at, torch.int64), axis=dim) if at in used else None
        for at in range(len(call.node.meta["val"]))
    ]


def _triangle(call: Call, upper: int) -> str:
    return call.graph.op("Trilu", call.tensor("self"), call.graph.scalar(call["diagonal"], torch.int64), upper=upper)


@rule(_aten.tril.default)
def tril(call: Call) -> str:
    """The lower triangle; zeros elsewhere."""
    return _triangle(call, 0)


@rule(_aten.triu.default)
def triu(call: Call) -> str:
    """The upper triangle; zeros elsewhere."""
    return _triangle(call, 1)


@rule(_aten.select_scatter.default)
def select_scatter(call: Call) -> str:
    """The tensor with one position of a dimension replaced."""
    graph, dim = call.graph, dim_of(call["dim"], call.fake("self"))
    index = call["index"]
    if isinstance(index, fx.Node):
        raise Untranslated("select_scatter at a free position")
    part = graph.op("Unsqueeze", call.as_type(call["src"], call.out.dtype), graph.whole(dim))
    before = sliced(call, call.tensor("self"), dim, 0, index)
    behind = sliced(call, call.tensor("self"), dim, index + 1 or _MOST, None)
    if index in (0, -1):
        return graph.op("Concat", *((part, behind) if index == 0 else (before, part)), axis=dim)
    return graph.op("Concat", before, part, behind, axis=dim)


@rule(_aten.slice_scatter.default)
def slice_scatter(call: Call) -> str:
    """The tensor with a part of a dimension replaced."""
    graph, dim, given = call.graph, dim_of(call["dim"], call.fake("self")), call.given
    start, end, step = given["start"] or 0, given["end"], given["step"]
    if step != 1 or not isinstance(start, int) or not (end is None or isinstance(end, int)):
        raise Untranslated("slice_scatter with steps or free bounds")
    whole = call.fake("self").shape[dim]
    parts = [call.as_type(call["src"], call.out.dtype)]
    if start:
        parts.insert(0, sliced(call, call.tensor("self"), dim, 0, start))
    if end is not None and not (isinstance(whole, int) and end >= whole) and end != _MOST:
        parts.append(sliced(call, call.tensor("self"), dim, end, None))
    return parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=dim)
