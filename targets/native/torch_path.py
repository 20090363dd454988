"""Runs the operators of a plan with torch, for inputs of other sizes than the plan was made for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from recfx.ir.region import Region
from recfx.runtime.flat import flat_function


class TorchPath:
    """The operators of one plan, run by torch. The function is made at the first call, since most plans never need it.

    Args:
        region: The region the plan was made from.
        outputs: The outputs of the plan.

    Attributes:
        sources: The inputs of the region that the path takes, in order.
    """

    def __init__(self, region: Region, outputs: Sequence[fx.Node]) -> None:
        self._region, self._outputs = region, list(outputs)
        needed, wanted = set[fx.Node](), list(outputs)
        while wanted:
            node = wanted.pop()
            if node not in needed:
                needed.add(node)
                wanted += node.all_input_nodes
        self._nodes = [node for node in region.graph.nodes if node in needed]
        self.sources = [node for node in self._nodes if node.op == "placeholder"]
        self._run: Callable[..., tuple[Any, ...]] | None = None

    def __call__(self, *values: Any) -> Any:
        """The plan's outputs: one tensor, or a tuple of several.

        Args:
            values: The values of `sources`.
        """
        if self._run is None:
            self._run = self._function()
        found = self._run(*values)
        return found[0] if len(self._outputs) == 1 else found

    def _function(self) -> Callable[..., tuple[Any, ...]]:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self._nodes:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
        graph.output(tuple(copies[node] for node in self._outputs))
        module = fx.GraphModule(self._region.module, graph)
        return flat_function(dataclasses.replace(self._region, module=module))
