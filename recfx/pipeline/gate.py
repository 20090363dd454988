"""`Gate`: numbers the rewrites of a run, and lets a bisection forbid single ones."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from recfx.ir.program import Applied
from recfx.ir.provenance import module_path


class Gate:
    """Numbers the rewrites of one run and decides which are made.

    Args:
        allow: Rewrite number -> whether to make it; by default all are made.

    Attributes:
        asked: The rewrites in the order of their numbers, with the decision on each.
    """

    def __init__(self, allow: Callable[[int], bool] | None = None) -> None:
        self._allow = allow or (lambda index: True)
        self.asked: list[Applied] = []
        self._refused: set[tuple[str, str, str]] = set()

    def ask(self, pass_name: str, rule: str, node: fx.Node, *, mandatory: bool = False) -> bool:
        """Whether the next rewrite may be made.

        Args:
            pass_name: The pass.
            rule: The rule.
            node: The node to rewrite.
            mandatory: Whether the answer must be True.

        A refused rewrite stays refused and keeps its number when a pass sweeps over the graph again.
        """
        key = (pass_name, rule, node.name)
        if key in self._refused:
            return False
        index = len(self.asked)
        allowed = mandatory or self._allow(index)
        self.asked.append(Applied(index, pass_name, rule, node.name, module_path(node), allowed))
        if not allowed:
            self._refused.add(key)
        return allowed
