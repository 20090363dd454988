"""Which nodes a plan can hold: target -> the function that adds its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from recfx.targets.native.builder import PlanBuilder

Rule = Callable[[PlanBuilder, fx.Node], None]

#: A rule gives `builder.values[node]`, or raises Unsupported, in which case what it added is taken back.
RULES: dict[Any, Rule] = {}


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Registers a rule for some targets."""

    def register(function: Rule) -> Rule:
        for target in targets:
            RULES[target] = function
        return function

    return register
