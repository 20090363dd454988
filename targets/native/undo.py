"""What a rule did to a plan under construction, and how it is undone when the rule refuses its node.

Nothing is copied: the lists of a plan only grow, and tables remember what they held. So undoing costs as much as the rule did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import fx

from recfx.targets.native.values import Value

if TYPE_CHECKING:
    from recfx.targets.native.builder import PlanBuilder


class Places(dict[fx.Node, Value]):
    """Node -> the place of its tensor. It knows the nodes of each slot, and what it held before each change."""

    def __init__(self) -> None:
        super().__init__()
        self._changes: list[tuple[fx.Node, Value | None]] = []
        self._nodes: dict[int, dict[fx.Node, None]] = {}

    def __setitem__(self, node: fx.Node, value: Value) -> None:
        self._changes.append((node, self.get(node)))
        self._put(node, value)

    def nodes_of(self, slot: int) -> list[fx.Node]:
        """The nodes whose tensors lie in a slot."""
        return list(self._nodes.get(slot, ()))

    def mark(self) -> int:
        """The present state, for `undo`."""
        return len(self._changes)

    def undo(self, mark: int) -> None:
        """Goes back to the state at a mark."""
        while len(self._changes) > mark:
            node, before = self._changes.pop()
            if before is None:
                del self._nodes[self[node].slot][node]
                del self[node]
            else:
                self._put(node, before)

    def _put(self, node: fx.Node, value: Value) -> None:
        held = self.get(node)
        if held is not None:
            del self._nodes[held.slot][node]
        super().__setitem__(node, value)
        self._nodes.setdefault(value.slot, {})[node] = None


class Mark:
    """The state of a plan before a rule runs.

    Args:
        builder: The plan.
    """

    def __init__(self, builder: PlanBuilder) -> None:
        self._slots, self._emitted = len(builder.slots), len(builder.emitted)
        self._absorbed = len(builder.absorbed)
        self._values, self._placed = builder.values.mark(), builder.placements.mark()

    def undo(self, builder: PlanBuilder) -> None:
        """Takes back what was done since."""
        while len(builder.absorbed) > self._absorbed:
            builder.restore_absorbed()
        while len(builder.emitted) > self._emitted:
            builder.take_back_step()
        del builder.slots[self._slots :]
        builder.values.undo(self._values)
        builder.placements.undo(self._placed)
