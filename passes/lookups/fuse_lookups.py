"""fuse-lookups: lookups of many tables become one operator, which writes into the concatenation's buffer.

    cat([embedding(W1, x[:, 0]), bag(W2, i, o), dense], 1) -> grouped_lookup(...)
    stack([embedding(W1, x[:, 0]), ...], 1)                 -> view(grouped_lookup(...))
    embedding(W1, i), embedding(W2, j)                      -> two slices of grouped_lookup(...)
    bag(W, ids)                                             -> grouped_lookup(...), even alone

A lookup that several concatenations read runs once: the widest concatenation becomes the buffer, the others read columns of it.

Requires: functional. Exactness: REASSOC (bags are summed in another order; rows are only moved).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import fx

from recfx.ir.access import items_of
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import JOINS, ROW_LOOKUPS
from recfx.ir.program import Origin, Program
from recfx.ops.lookup import decode, grouped_lookup
from recfx.passes._match import value
from recfx.passes._properties import CANONICAL
from recfx.passes.lookups.buffer_layout import Downstream, Layout, Part, join_lead, layout_of, runs
from recfx.passes.lookups.id_columns import columns_in, rows_of
from recfx.passes.lookups.jagged_lookups import drop_checked_starts
from recfx.passes.lookups.layouts import Layouts
from recfx.passes.lookups.lookup import Read, is_lookup, match_lookup
from recfx.passes.lookups.write_buffer import make_room, serve, write_buffer
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, register

_aten = torch.ops.aten


@register
@dataclass(frozen=True)
class FuseLookups(Pass):
    """Replaces lookups by grouped lookups.

    Attributes:
        at_least: The smallest number of features to group if the lookups feed no common concatenation.
    """

    spec = PassSpec(
        "fuse-lookups",
        "Groups lookups of many tables into one operator that writes into the concatenation.",
        exactness=Exactness.REASSOC,
        prefers=CANONICAL,
        forbids=frozenset({"tables-quantised"}),
        establishes=frozenset({"lookups-fused"}),
    )

    at_least: int = 2

    def run(self, program: Program, ctx: PassContext) -> None:
        layouts = Layouts(ctx)
        while layout := layouts.widest():
            if not ctx.gate("into-concat", layout.root):
                layouts.refuse(layout.root)
                continue
            buffer = write_buffer(ctx, layout)
            ctx.discard(layout.spans)
            _share(ctx, buffer)
        for group in _independent(ctx):
            self._group(ctx, group)
        drop_checked_starts(ctx)
        ctx.sweep()

    def _group(self, ctx: PassContext, group: list[tuple[fx.Node, int, list[Read]]]) -> None:
        """Inserts one grouped lookup for lookups without a common concatenation, or for one bag, since only the dialect has bag kernels."""
        first = group[0][0]
        features = [read.feature for _, _, reads in group for read in reads]
        bag_alone = len(group) == 1 and first.target is operator.getitem
        if not bag_alone and (len(features) < self.at_least or len(group) < 2):
            ctx.miss("side-by-side", first, "no other lookup has the same rows and no concatenation reads it")
            return
        if not ctx.gate("alone" if bag_alone else "side-by-side", first):
            return
        start, layout = 0, Layout(first, group[0][1])
        for node, lead, reads in group:
            width = columns_in(node, lead)
            layout.parts.append(Part(node, start, width, tuple(reads)))
            layout.spans[node] = (start, width)
            start += width
        write_buffer(ctx, layout)


def _share(ctx: PassContext, buffer: fx.Node) -> None:
    """Replaces joins that hold only adjacent columns of a buffer by views of it."""
    for node in _joins_behind(buffer):
        lead = join_lead(node)
        layout = None if lead is None else layout_of(ctx, node, lead, set())
        if layout is None or isinstance(layout, Miss) or layout.lookups:
            continue
        read = runs(ctx, layout)
        if len(read) != 1 or read[0][1].source is not buffer or not ctx.gate("shared-columns", node):
            continue
        with ctx.before(make_room(ctx.graph, [buffer], [])):
            columns, total = read[0][1], columns_in(buffer, 1)
            serve(ctx, node, buffer, columns.start, columns.count, layout.lead, total)
        ctx.discard(layout.spans)


def _joins_behind(buffer: fx.Node) -> list[fx.Node]:
    """The joins that read columns of a buffer, in graph order."""
    seen: set[fx.Node] = set()
    waiting = list(buffer.users)
    while waiting:
        node = waiting.pop()
        if node not in seen and (node.target in JOINS or len(node.all_input_nodes) == 1):
            seen.add(node)
            waiting += node.users
    return sorted(node for node in seen if node.target in JOINS)


def _independent(ctx: PassContext) -> list[list[tuple[fx.Node, int, list[Read]]]]:
    """Groups of the remaining lookups with equal rows and origins, in which no lookup depends on another."""
    groups: dict[object, list[_Group]] = {}
    for node in ctx.nodes():
        if not node.users or not is_lookup(node) or _holds_several(node):
            continue
        lead = _own_lead(node)
        reads = match_lookup(ctx, node, lead)
        if isinstance(reads, Miss):
            ctx.miss("side-by-side", node, reads.reason)
            continue
        rows = rows_of(node, lead)
        if rows is None or not all(isinstance(size, int) for size in rows[1:]):
            ctx.miss("side-by-side", node, "the sizes of its rows vary")
            continue
        key = (tuple(map(str, rows)), _origins(ctx, reads))
        _join(groups.setdefault(key, []), (node, lead, reads))
    return [group.items for found in groups.values() for group in found]


def _holds_several(node: fx.Node) -> bool:
    """Whether a node is a grouped lookup of more than one part already."""
    if node.target is not grouped_lookup:
        return False
    return bool(node.args[4]) or len(decode(items_of(node, 5))) > 1


class _Group:
    """A group of lookups in which no lookup depends on another."""

    def __init__(self) -> None:
        self.items: list[tuple[fx.Node, int, list[Read]]] = []
        self._dependent = Downstream()

    def takes(self, needed: set[fx.Node]) -> bool:
        """Whether a lookup that reads some nodes depends on no lookup of the group."""
        return not self._dependent.meets(needed)

    def add(self, item: tuple[fx.Node, int, list[Read]]) -> None:
        """Adds a lookup."""
        self.items.append(item)
        self._dependent.add(item[0])


def _join(groups: list[_Group], item: tuple[fx.Node, int, list[Read]]) -> None:
    """Adds a lookup to the first group on which it does not depend."""
    needed = {n for read in item[2] for n in read.inputs()}
    group = next((group for group in groups if group.takes(needed)), None)
    if group is None:
        group = _Group()
        groups.append(group)
    group.add(item)


def _own_lead(node: fx.Node) -> int:
    """The number of row dimensions of a lookup without a concatenation: a row for each id, or for each bag."""
    held = value(node)
    rank = 1 if held is None else held.ndim - 1
    return max(rank, 1) if node.target in ROW_LOOKUPS else 1


def _origins(ctx: PassContext, reads: list[Read]) -> frozenset[Origin]:
    """The origins of the inputs from which the ids of some features are computed."""
    seen: set[fx.Node] = set()
    pending = [read.ids for read in reads]
    origins: set[Origin] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        pending.extend(node.all_input_nodes)
        if node.op == "placeholder":
            origins.add(ctx.program.origins.get(node.name, Origin.CANDIDATE))
    return frozenset(origins)
