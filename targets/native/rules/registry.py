"""The rules: operator -> function that adds its steps to a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from recfx.targets.native.builder import PlanBuilder

Rule = Callable[[PlanBuilder, fx.Node], None]

#: A rule sets `builder.values[node]`, or raises Unsupported; then the steps that it added are removed.
RULES: dict[Any, Rule] = {}


def rule(*targets: Any, replaces: bool = False) -> Callable[[Rule], Rule]:
    """Registers a rule for some targets.

    Args:
        targets: The operators.
        replaces: Whether it replaces a registered rule. Otherwise a second rule for a target is an error, since the order of imports
            would decide between the two.
    """

    def register(function: Rule) -> Rule:
        for target in targets:
            if (target in RULES) is not replaces:
                raise ValueError(f"{target} has {'no rule to replace' if replaces else 'a rule already'}")
            RULES[target] = function
        return function

    return register
