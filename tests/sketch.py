"""Graphs written as nested tuples, for tests of the functions that match a part of a graph.

s = Sketch({"x": ("batch", 4)}, w=torch.ones(4))
node = s.node((aten.mul.Tensor, "x", "w"))
found = match_something(s.context(), node)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from recfx.pipeline import PassContext, PassSpec
from recfx.testing.builder import GraphBuilder

_SPEC = PassSpec("sketch", "Matches parts of a graph.")


class Sketch:
    """A graph of expressions: (operator, argument, ...), perhaps with a dict of keyword arguments at the end.

    A string among the arguments is an input or a tensor of the state. Equal expressions are one node.

    Args:
        inputs: Input name -> shape, or (shape, dtype), as for `GraphBuilder`.
        **state: Name -> tensor of the state.
    """

    def __init__(self, inputs: Mapping[str, Any], **state: torch.Tensor) -> None:
        self._builder = GraphBuilder(inputs)
        self._known: dict[str, fx.Node] = dict(self._builder.inputs)
        self._known |= {name: self._builder.state(name, tensor) for name, tensor in state.items()}

    def node(self, expression: Any) -> fx.Node:
        """The node of an expression; it is added if the graph does not have it."""
        key = expression if isinstance(expression, str) else repr(expression)
        if key not in self._known:
            target, *given = expression
            named = given.pop() if given and isinstance(given[-1], dict) else {}
            kwargs = {name: self._argument(value) for name, value in named.items()}
            self._known[key] = self._builder.call(target, *map(self._argument, given), **kwargs)
        return self._known[key]

    def context(self, *unread: Any) -> PassContext:
        """A context of the program that returns all nodes that nothing reads. Nothing can be added to it.

        Args:
            *unread: Expressions that are added before.
        """
        for expression in unread:
            self.node(expression)
        ends = [
            node for node in self._builder.graph.nodes if not node.users and isinstance(node.meta["val"], torch.Tensor)
        ]
        return PassContext(self._builder.build(*ends), _SPEC)

    def values(self, ctx: PassContext) -> dict[fx.Node, Any]:
        """Node -> its value for the example inputs. `ctx` is what `context` gave."""
        run = fx.Interpreter(ctx.program.module, garbage_collect_values=False)
        run.run(*ctx.program.example)
        return run.env

    def _argument(self, given: Any) -> Any:
        if isinstance(given, list):
            return [self._argument(value) for value in given]
        named = isinstance(given, str) and given in self._known
        return self.node(given) if named or isinstance(given, tuple) else given
