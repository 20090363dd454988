"""The schedule: the regions of a split program as one flat function."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from recfx.ir.region import Region, Split
from recfx.runtime.flat import flat_function

Runner = Callable[..., Sequence[Any]]


def schedule(found: Split, bodies: Sequence[Runner | Region]) -> Runner:
    """A function from the program's flat inputs to its flat outputs, which runs the regions one after another.

    Args:
        found: The split program.
        bodies: The code of each region: a function from its flat inputs, by position, to its flat outputs; or a graph.
    """
    if len(bodies) == 1 and not isinstance(bodies[0], Region):
        return bodies[0]
    return flat_function(joined(found, bodies))


def joined(found: Split, bodies: Sequence[Runner | Region]) -> Region:
    """Joins the regions of a split program into one graph.

    A region with a graph is inlined, which saves a call. Unused values are not computed. The flat function frees each value after its last
    use.

    Args:
        found: The split program.
        bodies: The code of each region, as in `schedule`.
    """
    if len(bodies) == 1 and isinstance(bodies[0], Region):
        return bodies[0]
    graph = fx.Graph()
    values: dict[str, Any] = {}
    for node in found.program.placeholders():
        values[node.name] = graph.node_copy(node)
    for index, (region, body) in enumerate(zip(found.regions, bodies, strict=True)):
        given = [values[name] for name in region.inputs]
        results = _inline(graph, body, given) if isinstance(body, Region) else _call(graph, index, region, body, given)
        values |= dict(zip(region.outputs, results, strict=True))
    returned = next(iter(reversed(found.program.graph.nodes))).args[0]
    graph.output(tuple(_result(graph, value, values) for value in returned))
    graph.eliminate_dead_code()
    return Region(fx.GraphModule(found.program.module, graph))


def _call(graph: fx.Graph, index: int, region: Region, runner: Runner, given: Sequence[Any]) -> list[Any]:
    """Inserts the call of a region's function; returns the nodes of its outputs."""
    node = graph.call_function(_Named(runner, f"region_{index}"), tuple(given))
    return [graph.call_function(operator.getitem, (node, at)) for at in range(len(region.outputs))]


class _Named:
    """A function with a `__name__`, which the target of a node needs."""

    def __init__(self, function: Runner, name: str) -> None:
        self.function = function
        self.__name__ = self.__qualname__ = name
        self.__module__ = __name__

    def __call__(self, *values: Any) -> Sequence[Any]:
        return self.function(*values)


def _inline(graph: fx.Graph, region: Region, given: Sequence[Any]) -> Any:
    """Copies the graph of a region into `graph`; returns the outputs of the copy."""
    copies: dict[fx.Node, Any] = dict(zip(region.placeholders(), given, strict=True))
    for node in region.graph.nodes:
        if node.op == "output":
            return fx.map_arg(node.args[0], lambda n: copies[n])
        if node not in copies:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    raise AssertionError("the graph of a region must end with its output")


def _result(graph: fx.Graph, value: Any, values: dict[str, Any]) -> Any:
    """One result of the program: the value of a region or an input, a read of the state, or a number."""
    if not isinstance(value, fx.Node):
        return value
    return graph.node_copy(value) if value.op == "get_attr" else values[value.name]
