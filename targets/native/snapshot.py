"""The state of a plan under construction, which is restored when a rule refuses a node."""

from __future__ import annotations

from recfx.targets.native.builder import PlanBuilder


class Snapshot:
    """The parts of a builder that a rule may change before it refuses."""

    def __init__(self, builder: PlanBuilder) -> None:
        self.slots = [(s, s.width) for s in builder.slots]
        self.steps, self.values = list(builder.steps), dict(builder.values)
        self.placed = dict(builder._placed)

    def restore(self, builder: PlanBuilder) -> None:
        for slot, width in self.slots:
            slot.width = width
        builder.slots[:] = [slot for slot, _ in self.slots]
        builder.steps[:] = self.steps
        builder.values.clear()
        builder.values.update(self.values)
        builder._placed.clear()
        builder._placed.update(self.placed)
