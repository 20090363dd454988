"""The copies of a program that passes edit.

Each pass edits a copy, so that the program before it is there when the pass fails. Most passes of a pipeline change nothing: their copy
serves the next pass, so that a pipeline copies the graph once for each pass that changed it.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from recfx.ir.diff import same_arguments, same_graph
from recfx.ir.program import Program


class WorkingCopies:
    """A copy of a program that a pass left as it was."""

    def __init__(self) -> None:
        self._kept: tuple[fx.GraphModule, fx.GraphModule] | None = None

    def take(self, program: Program) -> Program:
        """A copy of a program, whose graph the caller may edit."""
        kept, self._kept = self._kept, None
        if kept is None or kept[0] is not program.module:
            return program.clone()
        return program.with_module(kept[1])

    def keep(self, program: Program, copy: Program) -> None:
        """Keeps a copy for the next pass, when names and recorded values are those of the program, too."""
        if all(map(_alike, program.graph.nodes, copy.graph.nodes)) and _states(program) == _states(copy):
            self._kept = program.module, copy.module


def differ(before: Program, after: Program) -> bool:
    """Whether a pass changed the graph, unread nodes included."""
    if len(before.graph.nodes) != len(after.graph.nodes):
        return True
    return not _equal_in_order(before, after) and same_graph(before, after) is not None


def _equal_in_order(before: Program, after: Program) -> bool:
    """Whether two graphs hold equal nodes in the same order: the usual case, which needs no search for partners."""
    partner: dict[fx.Node, fx.Node] = {}
    for x, y in zip(before.graph.nodes, after.graph.nodes, strict=True):
        same = x.op == y.op and (x.target == y.target or x.op == "placeholder")
        if not same or not same_arguments((x.args, x.kwargs), (y.args, y.kwargs), partner):
            return False
        partner[x] = y
    return _states(before) == _states(after)


def _states(program: Program) -> list[tuple[str, int]]:
    return [(name, id(tensor)) for name, tensor in program.state().items()]


def _alike(x: fx.Node, y: fx.Node) -> bool:
    """Whether a node and its copy have the same name and the same recorded value."""
    held: Any = x.meta.get("val")
    return x.name == y.name and y.meta.get("val") is held
