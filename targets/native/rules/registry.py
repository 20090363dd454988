"""The rules: operator -> function that adds its steps to a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from recfx.targets.native.builder import PlanBuilder

Rule = Callable[[PlanBuilder, fx.Node], None]

#: A rule sets `builder.values[node]`, or raises Unsupported. In the latter case the caller removes the steps that it added.
RULES: dict[Any, Rule] = {}


def rule(*targets: Any, replaces: bool = False) -> Callable[[Rule], Rule]:
    """Registers a rule for the given operators.

    Args:
        targets: The operators.
        replaces: Whether it replaces a registered rule. Without it, a second rule for an operator is an error: the order of imports
            would decide between the two.

    Raises:
        ValueError: When the function is decorated: an operator has a rule already, or none to replace.
    """

    def register(function: Rule) -> Rule:
        for target in targets:
            if (target in RULES) is not replaces:
                raise ValueError(f"{target} has {'no rule to replace' if replaces else 'a rule already'}")
            RULES[target] = function
        return function

    return register
