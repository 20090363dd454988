"""Dot products with packed codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.formats.code_rows import CONSTANT_BYTES, code_row_bytes
from recfx.kernels.codes import Kind
from recfx.kernels.slots import CodeDotInt, CodeDotPointer, CodeDotView
from recfx.ops import hamming
from recfx.targets.native.builder import PlanBuilder, view
from recfx.targets.native.rules.copies import compact
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import View
from recfx.targets.native.values import Unsupported, Value, merge


@rule(hamming.code_dot)
def _code_dot(builder: PlanBuilder, node: fx.Node) -> None:
    arguments: Any = node.args
    query, table, ids, bits, query_bits = arguments
    items = builder.tensor(table).contiguous()
    value = _one_row(builder, builder.value(query), (torch.float32,))
    dim = value.dims[-1].size
    if items.shape[1] != code_row_bytes(bits, dim):
        raise Unsupported(f"rows of {items.shape[1]} bytes do not hold {dim} codes of {bits} bits")
    views: dict[int, View] = {CodeDotView.QUERY: _run(value)}
    if ids is not None:
        views[CodeDotView.IDS] = _run(_one_row(builder, builder.value(ids), (torch.int64, torch.int32)))
    out = builder.result(node)
    if out.dims[0].size != 1 or out.batched is not any(builder.value(n).batched for n in (query, ids) if n is not None):
        raise Unsupported("it has several queries per batch row")
    ints = {
        CodeDotInt.ROWS: items.shape[0],
        CodeDotInt.ROW_BYTES: items.shape[1],
        CodeDotInt.CODE_BYTES: items.shape[1] - CONSTANT_BYTES,
        CodeDotInt.BITS: bits,
        CodeDotInt.QUERY_BITS: query_bits,
    }
    pointers = {CodeDotPointer.TABLE: builder.packer.keep(items)}
    builder.emit(Kind.CODE_DOT, out, [(out.dims[1].size, 1)], views, ints=ints, pointers=pointers)
    builder.emitted[-1].reads = ids if ids is not None else query
    builder.values[node] = out


def _one_row(builder: PlanBuilder, value: Value, dtypes: tuple[torch.dtype, ...]) -> Value:
    """A value [B, n] or [1, n] with one row per batch row, its elements contiguous."""
    if builder.dtype(value) not in dtypes:
        raise Unsupported(f"one of its inputs is {builder.dtype(value)}")
    if len(value.dims) != 2 or value.dims[0].size != 1 or value.dims[1].batch:
        raise Unsupported("it has several rows per batch row")
    last = value.dims[1]
    return compact(builder, value) if last.size != 1 and last.stride != 1 else value


def _run(value: Value) -> View:
    """The elements of a row as one run."""
    runs = merge(value.dims[1:])
    return view(value, [runs[0] if runs else (1, 1)])
