"""The layout of a tree of concatenations and stacks, column by column."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of, tensor_of
from recfx.ir.op_sets import JOINS
from recfx.passes._match import argument, value
from recfx.passes.lookups.id_columns import Columns, column_count, columns_of, is_reshape, rows_of, same_rows
from recfx.passes.lookups.lookup import Read, is_lookup, match_lookup
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Part:
    """Adjacent columns of a layout that one node holds.

    Attributes:
        node: The node.
        start: First column.
        width: Number of columns.
        reads: The features of a lookup; None for a dense part.
    """

    node: fx.Node
    start: int
    width: int
    reads: tuple[Read, ...] | None


@dataclasses.dataclass
class Layout:
    """The columns of a concatenation, stack or lookup.

    Attributes:
        root: The node.
        lead: The number of its leading dimensions that are rows.
        parts: Its columns from left to right.
        spans: Every node inside, the root included -> its first column and its number of columns.
    """

    root: fx.Node
    lead: int
    parts: list[Part] = dataclasses.field(default_factory=list)
    spans: dict[fx.Node, tuple[int, int]] = dataclasses.field(default_factory=dict)

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.parts[-1].start + self.parts[-1].width

    @property
    def lookups(self) -> list[fx.Node]:
        """The lookups inside."""
        return [part.node for part in self.parts if part.reads is not None]

    def inputs(self) -> Iterator[fx.Node]:
        """The inputs of an operator that fills the columns."""
        for part in self.parts:
            if part.reads is None:
                yield part.node
            for read in part.reads or ():
                yield from read.inputs()

    def served(self) -> list[fx.Node]:
        """The nodes inside that hold looked-up columns."""
        starts = [p.start for p in self.parts if p.reads is not None]  # in order, as the parts are

        def holds_a_lookup(start: int, width: int) -> bool:
            return bisect.bisect_left(starts, start) < bisect.bisect_left(starts, start + width)

        return [n for n, (start, width) in self.spans.items() if holds_a_lookup(start, width)]


def join_lead(node: fx.Node) -> int | None:
    """The number of leading dimensions of a concatenation or stack that are rows; None if it joins rows."""
    held = value(node)
    if held is None or not held.ndim:
        return None
    dim = argument(node, 1, "dim", 0) % held.ndim
    while dim > 1 and isinstance(held.shape[dim - 1], int) and held.shape[dim - 1] == 1:
        dim -= 1
    return dim or None


def layout_of(ctx: PassContext, root: fx.Node, lead: int, stops: set[fx.Node]) -> Layout | Miss:
    """The layout of a node, or why it has none.

    Args:
        ctx: The pass context.
        root: The node.
        lead: The number of its leading dimensions that are rows.
        stops: Nodes that are not divided into parts.
    """
    held, rows = value(root), rows_of(root, lead)
    if held is None or held.dtype is not torch.float32:
        return Miss("it is not float32")
    if rows is None or not all(isinstance(size, int) for size in rows[1:]):
        return Miss("the sizes of its rows vary")
    layout = Layout(root, lead)
    refused = _lay(ctx, root, layout, stops)
    return layout if refused is None else refused


def _lay(ctx: PassContext, node: Any, layout: Layout, stops: set[fx.Node]) -> Miss | None:
    lead, start = layout.lead, layout.width if layout.parts else 0
    width = column_count(node, lead)
    if width is None or not width:
        return Miss("the number of its columns varies", node)
    if not same_rows(rows_of(node, lead), rows_of(layout.root, lead)):
        return Miss("a part has other rows", node)
    inside = _inside(node, lead) if node is layout.root or node not in stops else None
    if inside is not None:
        for part in inside:
            if refused := _lay(ctx, part, layout, stops):
                return refused
    else:
        held = value(node)
        if held is None or held.dtype is not torch.float32:
            return Miss("a part is not float32", node)
        reads = match_lookup(ctx, node, lead) if is_lookup(node) and node not in stops else None
        layout.parts.append(Part(node, start, width, tuple(reads) if isinstance(reads, list) else None))
    layout.spans.setdefault(node, (start, width))
    return None


def _inside(node: fx.Node, lead: int) -> list[Any] | None:
    """The nodes whose concatenated columns are the node's columns; None if the node is not a join or a reshape."""
    if is_reshape(node, lead):
        return [node.args[0]]
    if node.target not in JOINS:
        return None
    held = tensor_of(node)
    dim = argument(node, 1, "dim", 0) % held.ndim
    ones = all(isinstance(size, int) and size == 1 for size in held.shape[lead:dim])
    return items_of(node, 0) if dim >= lead and ones else None


def runs(ctx: PassContext, layout: Layout) -> list[tuple[int, Columns]]:
    """The dense parts, with adjacent columns of one tensor merged: (first column in the layout, columns of the tensor)."""
    found: list[tuple[int, Columns]] = []
    for part in layout.parts:
        if part.reads is not None:
            continue
        columns = columns_of(ctx, part.node, layout.lead) or Columns(part.node, 0, part.width)
        if columns.cast is not None or columns.bases:
            columns = Columns(part.node, 0, part.width)
        start, last = found[-1] if found else (0, Columns(part.node, 0, 0))
        adjacent = (start + last.count, last.start + last.count) == (part.start, columns.start)
        if found and adjacent and last.source is columns.source:
            found[-1] = (start, dataclasses.replace(last, count=last.count + columns.count))
            continue
        found.append((part.start, columns))
    return found


def downstream(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """All nodes that depend on some nodes, these included."""
    return _reached(nodes, lambda node: node.users)


def upstream(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """All nodes on which some nodes depend, these included."""
    return _reached(nodes, lambda node: node.all_input_nodes)


def _reached(
    nodes: Iterable[fx.Node], following: Callable[[fx.Node], Iterable[fx.Node]], found: set[fx.Node] | None = None
) -> set[fx.Node]:
    """Adds the nodes, and all nodes that are reached from them, to `found`, and returns it."""
    found = set() if found is None else found
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(following(node))
    return found


class Downstream:
    """Everything that depends on a growing group of nodes. Each node is visited once, however often the group grows."""

    def __init__(self) -> None:
        self._found: set[fx.Node] = set()

    def add(self, node: fx.Node) -> None:
        """Adds a node to the group."""
        _reached([node], lambda n: n.users, self._found)

    def meets(self, nodes: Iterable[fx.Node]) -> bool:
        """Whether one of some nodes depends on the group or belongs to it."""
        return not self._found.isdisjoint(nodes)


def conflict(layout: Layout) -> fx.Node | None:
    """A node to compute outside the layout, because an input of the layout depends on rows that it looks up; or None."""
    needed = upstream(layout.inputs())
    lookup = next((lookup for lookup in layout.lookups if lookup in needed), None)
    if lookup is None:
        return None
    start, width = layout.spans[lookup]
    around = [
        (w, node) for node, (a, w) in layout.spans.items() if a <= start and start + width <= a + w and w < layout.width
    ]
    return max(around, key=lambda pair: pair[0])[1] if around else lookup
