"""Inserts a grouped lookup, and makes the users of the replaced lookups read its buffer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ops.lookup import Feature, encode, grouped_lookup
from recfx.passes._strides import relax_views
from recfx.passes.lookups.buffer_layout import Layout, runs
from recfx.passes.lookups.id_columns import Columns, column_count
from recfx.passes.lookups.lookup import Read
from recfx.pipeline import PassContext

_aten = torch.ops.aten


class _Places(list[fx.Node]):
    """Nodes, each once, and the position of each."""

    def __init__(self) -> None:
        super().__init__()
        self._positions: dict[fx.Node, int] = {}

    def of(self, node: fx.Node) -> int:
        """The position of a node, which is added behind all others when it is new."""
        if node not in self._positions:
            self._positions[node] = len(self)
            self.append(node)
        return self._positions[node]


class _Lists:
    """The lists of tensors of a new grouped lookup; each list holds a tensor once."""

    def __init__(self, ctx: PassContext, lead: int) -> None:
        self._ctx, self._lead = ctx, lead
        self._made: dict[Any, fx.Node] = {}
        self.tables = _Places()
        self.ids = _Places()
        self.offsets = _Places()
        self.weights = _Places()
        self.dense = _Places()

    def feature(self, read: Read, output: int) -> Feature:
        """The feature of a read, with its positions."""
        placed = dataclasses.replace(
            read.feature,
            table=self.tables.of(self._table(read.table)),
            ids=self.ids.of(self._ids(read)),
            output=output,
        )
        if read.offsets is not None:
            placed = dataclasses.replace(placed, offsets=self.offsets.of(self._offsets(read)))
        if read.weights is not None:
            placed = dataclasses.replace(placed, weights=self.weights.of(read.weights))
        return placed

    def copy(self, columns: Columns) -> int:
        """The position of dense columns in the list of dense inputs."""
        flat = self._flat(columns.source)
        if (columns.start, columns.count) != (0, column_count(columns.source, self._lead)):
            flat = self._ctx.call(_aten.slice.Tensor, flat, 1, columns.start, columns.start + columns.count)
        return self.dense.of(flat)

    def _table(self, table: fx.Node) -> fx.Node:
        """One read for each table, also if the graph reads it several times or under several names."""
        tensor = self._ctx.tensor(table)
        return self._made.setdefault(("table", id(tensor)), table)

    def _ids(self, read: Read) -> fx.Node:
        held = tensor_of(read.ids)
        key = ("ids", read.ids, read.lead, read.cast)
        if key not in self._made:
            ids = read.ids
            if read.cast is not None:
                ids = self._ctx.call(_aten.to.dtype, ids, read.cast)
            flat = held.ndim > read.lead + 1 or (read.lead > 1 and held.ndim >= read.lead)
            if flat:
                count = column_count(read.ids, read.lead)
                shape = [-1] if held.ndim == read.lead else [-1, count]
                ids = self._ctx.call(_aten.reshape.default, ids, shape)
            self._made[key] = ids
        return self._made[key]

    def _offsets(self, read: Read) -> fx.Node:
        assert read.offsets is not None
        if not read.from_lengths:
            return read.offsets
        key = ("offsets", read.offsets)
        if key not in self._made:
            sums = self._ctx.call(_aten.cumsum.default, read.offsets, 0)
            zero = self._ctx.call(_aten.new_zeros.default, sums, [1])
            self._made[key] = self._ctx.call(_aten.cat.default, [zero, sums])
        return self._made[key]

    def _flat(self, node: fx.Node) -> fx.Node:
        held = tensor_of(node)
        if self._lead == 1 and held.ndim == 2:
            return node
        if ("flat", node) not in self._made:
            shape = [-1, column_count(node, self._lead)]
            self._made["flat", node] = self._ctx.call(_aten.reshape.default, node, shape)
        return self._made["flat", node]


def write_buffer(ctx: PassContext, layout: Layout) -> fx.Node:
    """Replaces the lookups and joins of a layout by one grouped lookup.

    Args:
        ctx: The pass context.
        layout: A layout without conflict; its root may be a lookup.

    Returns:
        The grouped lookup.
    """
    place = make_room(ctx.graph, layout.inputs(), layout.lookups)
    while place in layout.spans:  # it would be erased when it is replaced
        place = place.next
    with ctx.before(place):
        buffer = _call(ctx, layout)
        inside = set(layout.spans)
        for node in layout.served():
            users = [user for user in node.users if user not in inside]
            if not users:
                continue
            start, width = layout.spans[node]
            serve(ctx, node, buffer, start, width, layout.lead, layout.width)
    return buffer


def _call(ctx: PassContext, layout: Layout) -> fx.Node:
    lists = _Lists(ctx, layout.lead)
    features: list[Feature] = []
    for part in layout.parts:
        output = part.start
        for read in part.reads or ():
            features.append(lists.feature(read, output))
            output += features[-1].columns
    copies: list[int] = []
    for start, columns in runs(ctx, layout):
        copies += [lists.copy(columns), start]
    return call_grouped(ctx, lists, features, copies, layout.width)


def call_grouped(
    ctx: PassContext, lists: Any, features: Sequence[Feature], copies: Sequence[int], width: int
) -> fx.Node:
    """Inserts a grouped lookup."""
    return ctx.call(
        grouped_lookup,
        list(lists.tables),
        list(lists.ids),
        list(lists.offsets),
        list(lists.weights),
        list(lists.dense),
        encode(features),
        list(copies),
        width,
    )


def make_room(graph: fx.Graph, inputs: Any, replaced: Sequence[fx.Node]) -> fx.Node:
    """Moves the nodes that depend on `replaced` behind the last of `inputs`.

    Returns:
        The node before which an operator that reads `inputs` and replaces `replaced` can be inserted.
    """
    last: fx.Node = max([*inputs, *graph.find_nodes(op="placeholder", sort=False)])
    later, waiting = set[fx.Node](), [node for node in replaced if not last < node]
    while waiting:
        node = waiting.pop()
        if node not in later:
            later.add(node)
            waiting += [user for user in node.users if not last < user]
    place = last
    for node in sorted(later):
        place.append(node)
        place = node
    following: fx.Node = last.next
    return following


def serve(ctx: PassContext, node: fx.Node, buffer: fx.Node, start: int, width: int, lead: int, total: int) -> fx.Node:
    """Makes every user of a node read its columns of a buffer instead; returns the node that reads them."""
    held = tensor_of(node)
    new = buffer if width == total else ctx.call(_aten.slice.Tensor, buffer, 1, start, start + width)
    if lead != 1 or held.ndim != 2:
        new = ctx.call(_aten.reshape.default, new, [-1, *held.shape[1:]])
    if width != total:
        relax_views([node])
    ctx.replace(node, new)
    return new
