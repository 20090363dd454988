"""Lookups in tables: embeddings, bags, and grouped lookups. None becomes a loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.onnx.rule import Call, fake_of, fixed, rule
from recfx.onnx.rules.bags import Bags, decoded
from recfx.onnx.rules.indexing import checked, refused_if_negative, whole_positions
from recfx.onnx.types import Untranslated
from recfx.ops import lookup
from recfx.ops.lookup import MEAN, NONE, SUM, Feature

_aten = torch.ops.aten


@rule(_aten.embedding.default)
def embedding(call: Call) -> str:
    """One row for each id."""
    index = checked(call, call["indices"], call.fake("weight").shape[0])
    return call.graph.op("Gather", call.tensor("weight"), index)


@rule(_aten.embedding_bag.padding_idx, _aten.embedding_bag.default)
def embedding_bag(call: Call) -> list[str | None]:
    """Rows pooled by bag. Offsets at equal distances give bags of one length."""
    if any(user.args[1] != 0 for user in call.node.users):
        raise Untranslated("results of embedding_bag other than the first")
    weight, mode = call.fake("weight"), call["mode"]
    if mode not in (0, 1):
        raise Untranslated("the maximum of a bag")
    padding = call.given.get("padding_idx")
    feature = Feature(
        0, 0, int(weight.shape[1]), 0, length=-1, offsets=0, last=bool(call["include_last_offset"]),
        weights=0 if call["per_sample_weights"] is not None else -1, pooling=MEAN if mode else SUM,
        padding=-1 if padding is None else padding % fixed(weight.shape[0], "a table with padding"),
    )  # fmt: skip
    length = _equal_lengths(call)
    ids, factors = call["indices"], call["per_sample_weights"]
    if length is None:
        return [_jagged(call, feature, call["weight"], ids, call["offsets"], factors), None, None, None]
    graph = call.graph
    value, kind = whole_positions(call, ids)
    value = graph.op("Reshape", value, graph.whole(-1, length))
    scaled = None if factors is None else graph.op("Reshape", call.value(factors), graph.whole(-1, length))
    return [_pooled(call, feature, call["weight"], value, kind, scaled, length, 2), None, None, None]


def _equal_lengths(call: Call) -> int | None:
    """The length of all bags if the offsets are 0, L, 2 L, ... up to the number of ids; None otherwise."""
    offsets: Any = call["offsets"]
    if offsets.op != "call_function" or offsets.target is not _aten.arange.start_step or call["include_last_offset"]:
        return None
    start, end, step = (*offsets.args, 1)[:3]
    count, held = call.fake("indices").shape[0], end.meta.get("val") if isinstance(end, fx.Node) else end
    whole = start == 0 and isinstance(step, int) and step > 0
    return step if whole and str(held) == str(count) and call.fake("indices").ndim == 1 else None


@rule(lookup.grouped_lookup)
def grouped_lookup(call: Call) -> str:
    """Lookups of many features, side by side with dense columns."""
    features, copies = lookup.decode(call["features"]), call["copies"]
    parts = [(column, call.value(call["dense"][at])) for at, column in zip(copies[::2], copies[1::2], strict=True)]
    read = _read_columns(features)
    for feature in features:
        factors = call["weights"][feature.weights] if feature.weights >= 0 else None
        table, ids = call["tables"][feature.table], call["ids"][feature.ids]
        if feature.length < 0:
            made = _jagged(call, feature, table, ids, call["offsets"][feature.offsets], factors)
        else:
            made = _fixed(call, feature, table, ids, factors, read[feature.ids])
        parts.append((feature.output, made))
    values = [value for _, value in sorted(parts, key=lambda part: part[0])]
    return values[0] if len(values) == 1 else call.graph.op("Concat", *values, axis=1)


def _read_columns(features: list[Feature]) -> dict[int, set[int]]:
    """Position of an id tensor -> its columns that are looked up without padding, so that a negative id is always an error."""
    found: dict[int, set[int]] = {}
    for f in features:
        if f.length >= 0:
            found.setdefault(f.ids, set()).update(range(f.column, f.column + f.length) if f.padding < 0 else ())
    return found


def _fixed(call: Call, f: Feature, table: Any, ids: Any, factors: Any, read: set[int]) -> str:
    """One feature with bags of fixed length: [B, columns]."""
    graph, held = call.graph, fake_of(ids)
    value, kind = whole_positions(call, ids)
    width = 1
    for size in held.shape[1:]:
        width *= fixed(size, "ids")
    whole = f.padding < 0 and held.ndim > 1 and read >= set(range(width))
    if whole:  # all columns are read: they are checked together
        unchecked = value
        value = graph.once(("checked", value), lambda: refused_if_negative(call, unchecked, kind))
    value = _columns(call, value, held.ndim, width, f)
    scaled = None if factors is None else _columns(call, call.value(factors), fake_of(factors).ndim, width, f)
    rank = 1 if held.ndim == 1 or f.length == 1 else 2
    return _pooled(call, f, table, value, kind, scaled, f.length, rank, is_checked=whole)


def _columns(call: Call, value: str, rank: int, width: int, f: Feature) -> str:
    """The columns of ids or factors that a feature reads: [B], or [B, length]."""
    graph = call.graph
    if rank == 1:
        return value
    if rank > 2:
        value = graph.op("Reshape", value, graph.whole(-1, width))
    if f.length == 1:
        return graph.op("Gather", value, graph.scalar(f.column, torch.int64), axis=1)
    if f.length == width:
        return value
    return graph.op("Slice", value, graph.whole(f.column), graph.whole(f.column + f.length), graph.whole(1))


def _pooled(
    call: Call, f: Feature, table: Any, ids: str, kind: torch.dtype, factors: str | None, length: int, rank: int,
    *, is_checked: bool = False,
) -> str:  # fmt: skip
    """The rows of ids [B] or [B, length], pooled: [B, columns]."""
    graph = call.graph
    rows, counted = weighted_rows(call, f, table, ids, kind, factors, is_checked=is_checked)
    if rank == 1:
        return rows
    if f.pooling == NONE:
        return graph.op("Reshape", rows, graph.whole(-1, f.dim * length))
    total = graph.op("ReduceSum", rows, graph.whole(1), keepdims=0)
    if f.pooling == SUM:
        return total
    if counted is None:
        return graph.op("Div", total, graph.scalar(max(length, 1), torch.float32))
    counts = graph.op("ReduceSum", graph.op("Cast", counted, to=1), graph.whole(1), keepdims=1)
    return graph.op("Div", total, graph.op("Max", counts, graph.scalar(1, torch.float32)))


def weighted_rows(
    call: Call, f: Feature, table: Any, ids: str, kind: torch.dtype, factors: str | None, *, is_checked: bool = False
) -> tuple[str, str | None]:
    """Rows times their factors, zero for padding; and which ids are not padding, None for all."""
    graph, counted = call.graph, None
    if f.padding >= 0:
        counted = graph.op("Not", graph.op("Equal", ids, graph.scalar(f.padding, kind)))
        ids = graph.op("Where", counted, ids, graph.scalar(0, kind))
    if not is_checked:
        unchecked = ids
        ids = graph.once(("checked", ids), lambda: refused_if_negative(call, unchecked, kind))
    if f.base:
        ids = graph.op("Add", call.cast(ids, kind, torch.int64), graph.scalar(f.base, torch.int64))
        if counted is not None:  # torch replaces padding by the first row of the table, which lies in it
            ids = graph.op("Where", counted, ids, graph.scalar(0, torch.int64))
    rows = decoded(call, graph.op("Gather", call.value(table), ids), fake_of(table).dtype, f)
    last = graph.whole(-1)
    if factors is not None:
        rows = graph.op("Mul", rows, graph.op("Unsqueeze", factors, last))
    if counted is not None:
        rows = graph.op("Where", graph.op("Unsqueeze", counted, last), rows, graph.scalar(0, torch.float32))
    return rows, counted


def _jagged(call: Call, f: Feature, table: Any, ids: Any, offsets: Any, factors: Any) -> str:
    """One feature with jagged bags: [B, dim]."""
    graph = call.graph
    bags = Bags(call, f, ids, offsets)
    held = None if factors is None else bags.part(call.as_type(factors, torch.float32))
    rows, counted = weighted_rows(call, f, table, bags.part(bags.ids), bags.kind, held)
    pooled = bags.summed(rows, f.dim)
    if f.pooling == SUM:
        return pooled
    counts = bags.counted(counted)
    least = graph.op("Max", counts, graph.scalar(1, torch.float32))
    return graph.op("Div", pooled, graph.op("Unsqueeze", least, graph.whole(1)))
