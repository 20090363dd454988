"""The changes of a rule to a plan under construction, and their reversal when the rule refuses its node.

Nothing is copied: the lists of a plan only grow, and tables record replaced values. A reversal therefore costs as much as the rule.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from torch import fx

from recfx.targets.native.steps import Slot, Step
from recfx.targets.native.values import Value


class Places(dict[fx.Node, Value]):
    """Node -> the place of its tensor. It also holds the nodes of each slot, and the value before each change."""

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


@dataclasses.dataclass(frozen=True)
class Mark:
    """The state of a plan before a rule runs: the lengths of its lists and tables."""

    slots: int
    emitted: int
    absorbed: int
    values: int
    placements: int


class Undoable:
    """The parts of a plan that rules change.

    Attributes:
        slots: The buffers.
        emitted: The steps, in order, with those that others absorbed.
        absorbed: The steps that others absorbed, each with the width that its slot had.
        values: Node -> the place of its tensor.
        placements: Concatenation -> the buffer into which producers of its parts write.
    """

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.emitted: list[Step] = []
        self.absorbed: list[tuple[Step, int]] = []
        self.values = Places()
        self.placements = Places()
        self._writers: dict[int, list[Step]] = {}

    @property
    def steps(self) -> list[Step]:
        """The steps, in order, without those that others absorbed."""
        return [step for step in self.emitted if not step.absorbed]

    def writers(self, slot: int) -> Iterator[Step]:
        """The steps that write to a slot, in order. A concatenation has as many as parts, so that rules ask for the first few alone."""
        return (step for step in self._writers.get(slot, ()) if not step.absorbed)

    def only_writer(self, slot: int) -> Step | None:
        """The step that alone writes to a slot; None when several do or none does."""
        first, second = (*itertools.islice(self.writers(slot), 2), None, None)[:2]
        return first if second is None else None

    def add_step(self, step: Step) -> None:
        """Adds a step after all others."""
        self.emitted.append(step)
        self._writers.setdefault(step.out.slot, []).append(step)

    def absorb(self, step: Step) -> None:
        """Removes a step from the plan, because a later step computes its result and no other step reads it."""
        slot = self.slots[step.out.slot]
        self.absorbed.append((step, slot.width))
        step.absorbed, slot.width = True, 0

    def mark(self) -> Mark:
        """The present state, for `undo`."""
        lengths = len(self.slots), len(self.emitted), len(self.absorbed)
        return Mark(*lengths, self.values.mark(), self.placements.mark())

    def undo(self, mark: Mark) -> None:
        """Goes back to the state at a mark."""
        while len(self.absorbed) > mark.absorbed:
            step, width = self.absorbed.pop()
            step.absorbed, self.slots[step.out.slot].width = False, width
        while len(self.emitted) > mark.emitted:
            self._writers[self.emitted.pop().out.slot].pop()
        del self.slots[mark.slots :]
        self.values.undo(mark.values)
        self.placements.undo(mark.placements)
