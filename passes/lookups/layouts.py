"""The layouts of all joins of a program, which are laid out again only when a node inside them changed."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import fx

from recfx.ir.access import items_of
from recfx.ir.op_sets import JOINS
from recfx.passes.lookups.buffer_layout import Layout, conflict, join_lead, layout_of
from recfx.passes.lookups.lookup import is_lookup, match_lookup
from recfx.pipeline import Miss, PassContext
from recfx.pipeline.records import MissRecord


@dataclasses.dataclass(frozen=True)
class _Held:
    """The layout of a join.

    Attributes:
        layout: The layout; None where the join holds no lookups.
        misses: Why lookups of the join are not part of it.
        inside: Each node inside with its arguments. A node that is rewired has other ones.
    """

    layout: Layout | None
    misses: tuple[MissRecord, ...]
    inside: tuple[tuple[fx.Node, Any], ...]

    @property
    def holds(self) -> bool:
        """Whether the layout is still right."""
        return bool(self.inside) and all(not node._erased and node.args is args for node, args in self.inside)


class Layouts:
    """The layouts of joins that hold lookups.

    Args:
        ctx: The pass context.
    """

    def __init__(self, ctx: PassContext) -> None:
        self._ctx = ctx
        self._refused: set[fx.Node] = set()
        self._stops: set[fx.Node] = set()
        self._held: dict[fx.Node, _Held] = {}

    def refuse(self, root: fx.Node) -> None:
        """Leaves a join as it is."""
        self._refused.add(root)
        self._held.clear()

    def widest(self) -> Layout | None:
        """The widest concatenation or stack of lookups that is not a part of another one; None when no join holds lookups."""
        while True:
            layouts = self._all()
            inner = {node for layout in layouts for node in layout.spans if node is not layout.root}
            outer = [layout for layout in layouts if layout.root not in inner]
            found = max(outer, key=lambda layout: layout.width, default=None)
            apart = None if found is None else conflict(found)
            if apart is None:
                return found
            self._stops.add(apart)
            self._held.clear()

    def _all(self) -> list[Layout]:
        ctx, layouts = self._ctx, []
        ctx.misses.clear()
        for node in ctx.nodes(*JOINS):
            held = self._held.get(node)
            if held is None or not held.holds:
                held = self._held[node] = self._lay(node)
            ctx.misses += held.misses
            if held.layout is not None:
                layouts.append(held.layout)
        return layouts

    def _lay(self, node: fx.Node) -> _Held:
        """The layout of a join."""
        if node in self._refused:
            return _Held(None, (), ((node, node.args),))
        lead = join_lead(node)
        looked_up = any(isinstance(n, fx.Node) and is_lookup(n) for n in items_of(node, 0))
        if lead is None:
            return _Held(None, self._misses(node, "it joins rows, not columns") if looked_up else (), ())
        layout = layout_of(self._ctx, node, lead, self._stops | self._refused)
        if isinstance(layout, Miss):
            return _Held(None, self._misses(layout.node or node, layout.reason) if looked_up else (), ())
        misses: list[MissRecord] = []
        for part in layout.parts:
            if part.reads is None and is_lookup(part.node) and part.node not in self._stops:
                why = match_lookup(self._ctx, part.node, lead)
                misses += self._misses(part.node, why.reason if isinstance(why, Miss) else "the gate refused it")
        inside = tuple((member, member.args) for member in layout.spans)
        return _Held(layout if layout.lookups else None, tuple(misses), inside)

    def _misses(self, node: fx.Node, reason: str) -> tuple[MissRecord, ...]:
        """The record of a miss."""
        earlier = len(self._ctx.misses)
        self._ctx.miss("into-concat", node, reason)
        record = self._ctx.misses.pop()
        assert len(self._ctx.misses) == earlier
        return (record,)
