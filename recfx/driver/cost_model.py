"""The model of costs that placement asks."""

from __future__ import annotations

from recfx.placement.costs import Costs


def cost_model() -> Costs | None:
    """The model of this machine's costs; None on machines without one, where only the first plan of a target is lowered."""
    return None
