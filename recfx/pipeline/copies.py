"""The copies of a program that passes edit.

Each pass edits a copy, so that the program before it is there when the pass fails. Most passes of a pipeline change nothing: their copy
serves the next pass, so that a pipeline copies the graph once for each pass that changed it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from recfx.ir.diff import same_arguments, same_graph
from recfx.ir.graph_reading import GraphReading
from recfx.ir.program import Program


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a pipeline records of a program that no pass edits.

    Attributes:
        module: The program's graph module.
        state: The program's state.
        operators: The number of its operators.
        state_bytes: The bytes of its state.
    """

    module: fx.GraphModule
    state: dict[str, torch.Tensor]
    operators: int
    state_bytes: int


class WorkingCopies:
    """A copy of a program that a pass left as it was, and what is known of the program."""

    def __init__(self) -> None:
        self._kept: tuple[fx.GraphModule, fx.GraphModule] | None = None
        #: The nodes of the copy that was taken last, as they were then.
        self._taken: GraphReading | None = None
        self._facts: Facts | None = None

    def facts(self, program: Program) -> Facts:
        """The facts of a program; passes that change nothing leave them as they are."""
        if self._facts is None or self._facts.module is not program.module:
            state, size = program.state(), program.state_bytes()
            self._facts = Facts(program.module, state, program.operator_count(), size)
        return self._facts

    def take(self, program: Program) -> Program:
        """A copy of a program, whose graph the caller may edit."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] is program.module:
            return program.with_module(kept[1])
        copy = program.clone()
        self._taken = GraphReading(copy.graph)
        return copy

    def changed(self, program: Program, copy: Program) -> bool:
        """Whether a pass changed the graph of the copy that it took, unread nodes included.

        One that it left as it was is kept for the next pass, when names and recorded values are those of the program, too.

        Args:
            program: The program before the pass.
            copy: The copy that the pass edited.
        """
        state = self.facts(program).state
        if _same_state(state, copy) and (self._is_untouched(copy) or _equal_in_order(program, copy)):
            if all(map(_alike, program.graph.nodes, copy.graph.nodes)):
                self._kept = program.module, copy.module
            return False
        return len(program.graph.nodes) != len(copy.graph.nodes) or same_graph(program, copy) is not None

    def _is_untouched(self, copy: Program) -> bool:
        """Whether nobody edited the graph of a copy since it was taken."""
        return self._taken is not None and self._taken.is_of(copy.graph)


def _equal_in_order(before: Program, after: Program) -> bool:
    """Whether two graphs hold equal nodes in the same order: the usual case, which needs no search for partners."""
    if len(before.graph.nodes) != len(after.graph.nodes):
        return False
    partner: dict[fx.Node, fx.Node] = {}
    for x, y in zip(before.graph.nodes, after.graph.nodes, strict=True):
        same = x.op == y.op and (x.target == y.target or x.op == "placeholder")
        if not same or not same_arguments(x.args, y.args, partner) or not same_arguments(x.kwargs, y.kwargs, partner):
            return False
        partner[x] = y
    return True


def _same_state(state: Mapping[str, torch.Tensor], program: Program) -> bool:
    """Whether a program holds the same tensors under the same names, in the same order."""
    held = program.state()
    return list(held) == list(state) and all(held[name] is tensor for name, tensor in state.items())


def _alike(x: fx.Node, y: fx.Node) -> bool:
    """Whether a node and its copy have the same name and the same recorded value."""
    held: Any = x.meta.get("val")
    return x.name == y.name and y.meta.get("val") is held
