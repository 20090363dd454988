"""Which nodes a plan can hold: target -> the function that adds its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from recfx.targets.native.builder import PlanBuilder

Rule = Callable[[PlanBuilder, fx.Node], None]

#: A rule gives `builder.values[node]`, or raises Unsupported, in which case what it added is taken back.
RULES: dict[Any, Rule] = {}


def rule(*targets: Any, replaces: bool = False) -> Callable[[Rule], Rule]:
    """Registers a rule for some targets.

    Args:
        targets: The operators.
        replaces: Whether it stands in front of rules that it was made from. Without that, a second rule for a target is an error:
            which of the two holds would depend on the order of imports.
    """

    def register(function: Rule) -> Rule:
        for target in targets:
            if (target in RULES) is not replaces:
                raise ValueError(f"{target} has {'no rule to replace' if replaces else 'a rule already'}")
            RULES[target] = function
        return function

    return register
