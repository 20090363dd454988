"""Grouped lookups and the interactions that read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Pooling, RowFormat
from recfx.kernels.slots import DotInt, DotView, FmInt, FmView, LookupInt
from recfx.ops import interaction, lookup
from recfx.targets.native.builder import PlanBuilder, rows_of, view
from recfx.targets.native.rules.copies import compact, copy
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import View
from recfx.targets.native.values import Dim, Unsupported, Value, merge

_FORMATS = {torch.float32: RowFormat.F32, torch.bfloat16: RowFormat.BF16, torch.float16: RowFormat.F16}


@rule(lookup.grouped_lookup)
def _lookup(builder: PlanBuilder, node: fx.Node) -> None:
    tables, ids, offsets, weights, dense, numbers, copies, _ = _arguments(node)
    lead = builder.shape(node)[0].size
    features = [
        _feature(builder, feature, tables[feature.table], ids, offsets, weights, lead)
        for feature in lookup.decode(numbers)
    ]
    out = builder.placed(node) or builder.result(node)
    builder.emit(Kind.LOOKUP, out, rows_of(out).runs, {}, ints={LookupInt.FEATURES: len(features)})
    builder.emitted[-1].features = features
    for source, column in zip(copies[::2], copies[1::2], strict=True):
        value = builder.value(dense[source])
        target = Value(out.slot, out.offset + column, (out.dims[0], Dim(value.dims[1].size, 1)))
        if (value.slot, value.offset) != (target.slot, target.offset):
            copy(builder, value, target)
    builder.values[node] = out


@rule(torch.ops.aten.embedding.default)
def _embedding(builder: PlanBuilder, node: fx.Node) -> None:
    """Rows of one table for ids of any shape: [..., D]."""
    table, ids = builder.tensor(node.args[0]), builder.value(node.args[1])
    batch = [d for d in ids.dims if d.batch]
    runs = merge([d for d in ids.dims if not d.batch or d.size != 1])
    if len(runs) > 1:
        raise Unsupported("its ids are not evenly spaced")
    length, step = runs[0] if runs else (1, 1)
    if table.dtype is not torch.float32 or builder.dtype(ids) not in (torch.int64, torch.int32):
        raise Unsupported(f"its table is {table.dtype}, and its ids are {builder.dtype(ids)}")
    feature = lookup.Feature(0, 0, table.shape[1], 0, length=length, pooling=lookup.NONE)
    out = builder.result(node, anywhere=length == 1 and bool(batch))
    fields = _table(builder, feature, table) | {
        "node": node.args[1], "ids": ids.slot, "ids_offset": ids.offset, "ids_stride": step, "offsets": -1, "weights": -1
    }  # fmt: skip
    builder.emit(Kind.LOOKUP, out, [(1, 0), (length * table.shape[1], 1)], {}, ints={LookupInt.FEATURES: 1})
    builder.emitted[-1].features = [fields]
    builder.values[node] = out


def _arguments(node: fx.Node) -> Any:
    names = ["tables", "ids", "offsets", "weights", "dense", "features", "copies", "width"]
    return [node.args[i] if i < len(node.args) else node.kwargs[name] for i, name in enumerate(names)]


def _feature(
    builder: PlanBuilder, f: lookup.Feature, table_node: Any, ids: Any, offsets: Any, weights: Any, lead: int
) -> dict[str, Any]:
    fields = _table(builder, f, builder.tensor(table_node)) | {"offsets": -1, "weights": -1, "node": ids[f.ids]}
    if f.length == lookup.JAGGED:
        if lead != 1:
            raise Unsupported("it has several rows of bags per batch row")
        fields["ids"] = _integers(builder, builder.jagged(ids[f.ids]))
        fields["offsets"] = _integers(builder, builder.jagged(offsets[f.offsets]))
        if f.weights >= 0:
            fields["weights"] = _float32(builder, builder.jagged(weights[f.weights]))
        return fields
    held = builder.value(ids[f.ids])
    slot, fields["ids_offset"], fields["ids_stride"] = _columns(held, f.column)
    fields["ids"], fields["ids_row"] = _integers(builder, slot), held.dims[0].stride
    if f.weights >= 0:
        value = builder.value(weights[f.weights])
        slot, fields["weights_offset"], fields["weights_stride"] = _columns(value, f.column)
        fields["weights"], fields["weights_row"] = _float32(builder, slot), value.dims[0].stride
    return fields


def _table(builder: PlanBuilder, f: lookup.Feature, table: torch.Tensor) -> dict[str, Any]:
    """The fields of a feature that describe its table and its bags."""
    if table.stride(1) != 1 and table.shape[1] != 1:
        table = table.contiguous()
    if f.bits == 32 and table.dtype not in _FORMATS:
        raise Unsupported(f"one of its tables is {table.dtype}")
    row = table.stride(0) if table.shape[0] > 1 else table.shape[1]
    return {
        "rows": builder.packer.table(table),
        "row_count": table.shape[0],
        "row_bytes": row * table.element_size(),
        "format": _FORMATS[table.dtype] if f.bits == 32 else RowFormat(f.bits),
        "dim": f.dim,
        "output": f.output,
        "pooling": Pooling(f.pooling),
        "length": f.length,
        "segment": f.segment,
        "segments": f.segments,
        "last": int(f.last),
        "padding": f.padding,
        "base": f.base,
        "ids_offset": 0,
        "ids_stride": 1,
        "weights_offset": 0,
        "weights_stride": 1,
        "ids_row": 0,
        "weights_row": 0,
    }


def _integers(builder: PlanBuilder, slot: int) -> int:
    if builder.slots[slot].dtype not in (torch.int64, torch.int32):
        raise Unsupported(f"some of its ids are {builder.slots[slot].dtype}")
    return slot


def _float32(builder: PlanBuilder, slot: int) -> int:
    if builder.slots[slot].dtype is not torch.float32:
        raise Unsupported(f"some of its weights are {builder.slots[slot].dtype}")
    return slot


def _columns(value: Value, column: int) -> tuple[int, int, int]:
    """Slot, first element and step of the columns of [B, ...], from `column` on."""
    runs = merge(value.dims[1:])
    if len(runs) > 1:
        raise Unsupported("its ids are not evenly spaced")
    stride = runs[0][1] if runs else 1
    return value.slot, value.offset + column * stride, stride


@rule(interaction.dot_interaction)
def _dots(builder: PlanBuilder, node: fx.Node) -> None:
    arguments: Any = list(node.args)
    x, prefix, self_interaction, upper = arguments
    views: dict[int, View] = {DotView.VECTORS: _vectors(builder, x)}
    columns = 0
    if prefix is not None:
        front = builder.value(prefix)
        if builder.dtype(front) is not torch.float32:
            raise Unsupported(f"its prefix is {builder.dtype(front)}")
        columns = front.dims[-1].size
        views[DotView.PREFIX] = rows_of(front)
    out = builder.result(node, anywhere=True)
    ints = {
        DotInt.PREFIX_COLUMNS: columns,
        DotInt.SELF_PAIRS: int(bool(self_interaction)),
        DotInt.UPPER: int(bool(upper)),
    }
    builder.emit(Kind.DOT, out, rows_of(out).runs, views, ints=ints)
    builder.values[node] = out


@rule(interaction.fm)
def _fm(builder: PlanBuilder, node: fx.Node) -> None:
    out = builder.result(node, anywhere=True)
    views = {FmView.VECTORS: _vectors(builder, node.args[0])}
    builder.emit(Kind.FM, out, rows_of(out).runs, views, ints={FmInt.TOTAL: int(bool(node.args[1]))})
    builder.values[node] = out


def _vectors(builder: PlanBuilder, node: Any) -> Any:
    """[B, F, D] as F runs of D elements."""
    value = builder.value(node)
    if builder.dtype(value) is not torch.float32:
        raise Unsupported(f"its input is {builder.dtype(value)}")
    first, features, dims = value.dims
    if first.size != 1 or (dims.stride != 1 and dims.size != 1):
        value = compact(builder, value)
        first, features, dims = value.dims
    if first.size != 1:
        raise Unsupported("it has several rows per batch row")
    return view(value, [(features.size, features.stride), (dims.size, 1)])
