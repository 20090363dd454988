"""Reads and writes at positions that tensors give. torch refuses negative positions where ONNX counts from the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.onnx.rule import Call, dim_of, fake_of, fixed, rule
from recfx.onnx.types import WHOLE, Untranslated

_aten = torch.ops.aten


def whole_positions(call: Call, argument: Any) -> tuple[str, torch.dtype]:
    """Positions in a type that ONNX reads, int32 or int64, and the type."""
    held = fake_of(argument)
    if held.dtype in (torch.int32, torch.int64):
        return call.value(argument), held.dtype
    if held.dtype not in WHOLE:
        raise Untranslated(f"positions of {held.dtype}")
    return call.cast(call.value(argument), held.dtype, torch.int64), torch.int64


def checked(call: Call, argument: Any, rows: Any = None) -> str:
    """Positions among `rows` elements, with negative ones moved beyond every element, so that the runtime refuses them.

    Constants that lie within the elements are not checked.
    """
    known = call.constant(argument)
    value, dtype = whole_positions(call, argument)
    if known is not None and isinstance(rows, int) and _within(known, rows):
        return value
    return call.graph.once(("checked", value), lambda: refused_if_negative(call, value, dtype))


def refused_if_negative(call: Call, value: str, dtype: torch.dtype) -> str:
    """Positions, with negative ones replaced by the largest number."""
    graph = call.graph
    negative = graph.op("Less", value, graph.scalar(0, dtype))
    return graph.op("Where", negative, graph.scalar(torch.iinfo(dtype).max, dtype), value)


def _within(known: torch.Tensor, rows: int) -> bool:
    return not known.numel() or (int(known.min()) >= 0 and int(known.max()) < rows)


@rule(_aten.index_select.default)
def index_select(call: Call) -> str:
    """Positions of one dimension."""
    held = call.fake("self")
    if not held.ndim:
        raise Untranslated("index_select of a tensor without dimensions")
    dim = dim_of(call["dim"], held)
    index = checked(call, call["index"], held.shape[dim])
    if not call.fake("index").ndim:
        index = call.graph.op("Reshape", index, call.graph.whole(1))
    return call.graph.op("Gather", call.tensor("self"), index, axis=dim)


@rule(_aten.gather.default, _aten.take_along_dim.default)
def gather(call: Call) -> str:
    """One position of a dimension for each element of the result."""
    held = call.fake("self")
    index = call.fake("index" if "index" in call.given else "indices")
    if call["dim"] is None or not held.ndim or index.ndim != held.ndim:
        raise Untranslated("gather of tensors of different ranks")
    dim = dim_of(call["dim"], held)
    if call.node.target is _aten.take_along_dim.default and any(
        str(a) != str(b) for at, (a, b) in enumerate(zip(held.shape, index.shape, strict=True)) if at != dim
    ):
        raise Untranslated("take_along_dim with broadcasting")
    argument = call["index"] if "index" in call.given else call["indices"]
    return call.graph.op("GatherElements", call.tensor("self"), checked(call, argument, held.shape[dim]), axis=dim)


@rule(_aten.index.Tensor)
def index(call: Call) -> str:
    """Indexing by tensors; negative positions count from the end, as in ONNX."""
    held = call.fake("self")
    places = [at for at, one in enumerate(call["indices"]) if one is not None]
    given = [call["indices"][at] for at in places]
    if any(fake_of(one).dtype is torch.bool for one in given):
        raise Untranslated("indexing by a mask gives a size that depends on values")
    if len(given) == 1:
        return call.graph.op("Gather", call.tensor("self"), whole_positions(call, given[0])[0], axis=places[0])
    rest = [dim for dim in range(held.ndim) if dim not in places]
    value = call.tensor("self")
    order = [*places, *rest]
    if order != sorted(order):
        value = call.graph.op("Transpose", value, perm=order)
    made = call.graph.op("GatherND", value, _stacked(call, given))
    depth = max(fake_of(one).ndim for one in given)
    together = places == list(range(places[0], places[-1] + 1))
    if not together or places[0] == 0:
        return made
    front = places[0]  # the dimensions before the indexed ones stand first in the result
    back = [*range(depth, depth + front), *range(depth), *range(depth + front, depth + len(rest))]
    return call.graph.op("Transpose", made, perm=back)


def _stacked(call: Call, given: Sequence[Any]) -> str:
    """Index tensors broadcast to one shape, side by side in a last dimension."""
    graph, parts = call.graph, []
    for one in given:
        value, dtype = whole_positions(call, one)
        parts.append(call.cast(value, dtype, torch.int64))
    total = parts[0]
    for part in parts[1:]:
        total = graph.op("Add", total, part)
    zeros = graph.op("Sub", total, total)
    return graph.op(
        "Concat", *(graph.op("Unsqueeze", graph.op("Add", p, zeros), graph.whole(-1)) for p in parts), axis=-1
    )


@rule(_aten.index_put.default)
def index_put(call: Call) -> str:
    """Writes at positions of the first dimensions, or where a mask is true."""
    held, values = call.fake("self"), call.fake("values")
    given = [one for one in call["indices"] if one is not None]
    if len(given) == 1 and fake_of(given[0]).dtype is torch.bool:
        return _put_masked(call, given[0])
    if any(one is None for one in call["indices"][: len(given)]) or any(
        fake_of(one).dtype is torch.bool for one in given
    ):
        raise Untranslated("index_put behind other dimensions")
    graph = call.graph
    stacked = _stacked(call, given)
    shape = graph.op("Slice", graph.op("Shape", stacked), graph.whole(0), graph.whole(-1))
    if len(given) < held.ndim:
        rest = graph.op("Shape", call.tensor("self"), start=len(given))
        shape = graph.op("Concat", shape, rest, axis=0)
    updates = graph.op("Expand", call.cast(call.tensor("values"), values.dtype, held.dtype), shape)
    options: dict[str, Any] = {"reduction": "add"} if call["accumulate"] else {}
    return graph.op("ScatterND", call.tensor("self"), stacked, updates, **options)


def _put_masked(call: Call, mask: fx.Node) -> str:
    """One number where a mask is true."""
    held, values = call.fake("self"), call.fake("values")
    if values.numel() != 1 or call["accumulate"]:
        raise Untranslated("index_put of several values by a mask")
    graph, condition = call.graph, call.value(mask)
    number = graph.op("Reshape", call.cast(call.tensor("values"), values.dtype, held.dtype), graph.whole())
    missing = held.ndim - fake_of(mask).ndim
    if missing:
        condition = graph.op("Unsqueeze", condition, graph.whole(*range(held.ndim - missing, held.ndim)))
    return graph.op("Where", condition, number, call.tensor("self"))


def _scattered(call: Call, updates: str, reduction: str) -> str:
    held, positions = call.fake("self"), call.fake("index")
    if positions.ndim != held.ndim or not held.ndim:
        raise Untranslated("scatter of tensors of different ranks")
    dim = dim_of(call["dim"], held)
    index = checked(call, call["index"], held.shape[dim])
    options: dict[str, Any] = {} if reduction == "none" else {"reduction": reduction}
    return call.graph.op("ScatterElements", call.tensor("self"), index, updates, axis=dim, **options)


def _source(call: Call) -> str:
    """The written values; torch reads the part of them that has the shape of the positions."""
    if tuple(map(str, call.fake("src").shape)) != tuple(map(str, call.fake("index").shape)):
        raise Untranslated("scatter of a part of its values")
    return call.as_type(call["src"], call.out.dtype)


@rule(_aten.scatter.src)
def scatter(call: Call) -> str:
    """Writes at positions of one dimension."""
    return _scattered(call, _source(call), "none")


@rule(_aten.scatter.value)
def scatter_value(call: Call) -> str:
    """Writes one number at positions of one dimension."""
    value = call.as_type(call["value"], call.out.dtype)
    updates = call.graph.op("Expand", value, call.graph.op("Shape", call.tensor("index")))
    return _scattered(call, updates, "none")


@rule(_aten.scatter_add.default)
def scatter_add(call: Call) -> str:
    """Adds at positions of one dimension."""
    return _scattered(call, _source(call), "add")


@rule(_aten.scatter_reduce.two)
def scatter_reduce(call: Call) -> str:
    """Adds or multiplies at positions of one dimension."""
    kinds = {"sum": "add", "prod": "mul"}
    if not call["include_self"] or call["reduce"] not in kinds:
        raise Untranslated(f"scatter_reduce by {call['reduce']}")
    return _scattered(call, _source(call), kinds[call["reduce"]])


@rule(_aten.index_add.default)
def index_add(call: Call) -> str:
    """Adds rows at positions of the first dimension."""
    held, graph = call.fake("self"), call.graph
    if not held.ndim or dim_of(call["dim"], held) != 0 or call["alpha"] != 1:
        raise Untranslated("index_add along another dimension than the first, or with a factor")
    positions = graph.op("Unsqueeze", checked(call, call["index"], held.shape[0]), graph.whole(-1))
    if call.fake("index").dtype is not torch.int64:
        positions = graph.op("Cast", positions, to=7)
    return graph.op("ScatterND", call.tensor("self"), positions, call.tensor("source"), reduction="add")


@rule(_aten.one_hot.default)
def one_hot(call: Call) -> str:
    """Rows of the identity matrix, which refuses ids outside of it."""
    classes = fixed(call["num_classes"], "one_hot")
    if not 0 < classes <= 1024:
        raise Untranslated("one_hot of an unknown or large number of classes")
    return call.graph.op(
        "Gather", call.graph.constant(torch.eye(classes, dtype=torch.int64)), checked(call, call["self"])
    )


def _ranks(call: Call, boundaries: str, argument: Any, dtype: torch.dtype) -> str:
    """The number of boundaries below each element; NaN lies above all."""
    graph = call.graph
    x = graph.op("Unsqueeze", call.as_type(argument, dtype), graph.whole(-1))
    above = graph.op("Greater" if call["right"] else "GreaterOrEqual", boundaries, x)
    counts = graph.op("Cast", graph.op("Not", above), to=7)
    return call.cast(graph.op("ReduceSum", counts, graph.whole(-1), keepdims=0), torch.int64, call.out.dtype)


@rule(_aten.bucketize.Tensor, _aten.searchsorted.Tensor)
def bucketize(call: Call) -> str:
    """The interval of each element among sorted boundaries."""
    given = call.given
    name = "boundaries" if "boundaries" in given else "sorted_sequence"
    held = call.fake(name)
    if held.ndim != 1 or not isinstance(held.shape[0], int) or held.shape[0] > 1024:
        raise Untranslated("a search in many or free boundaries")
    if given.get("sorter") is not None or given.get("side") not in (None, "left" if not given["right"] else "right"):
        raise Untranslated("a search with a sorter or a side")
    dtype = torch.promote_types(held.dtype, call.fake("self").dtype)
    return _ranks(call, call.as_type(call[name], dtype), call["self"], dtype)
