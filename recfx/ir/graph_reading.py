"""The nodes of a graph with their functions and arguments, to tell later whether anybody edited the graph."""

from __future__ import annotations

from typing import Any

from torch import fx


class GraphReading:
    """The nodes of a graph as they are now.

    Arguments of nodes are immutable: an edit puts others in their place. So a graph whose nodes, functions and arguments are the same
    objects in the same order is the same graph.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._nodes = _read(graph)

    def is_of(self, graph: fx.Graph) -> bool:
        """Whether a graph is the one that was read, without an edit since. Names and metadata of nodes do not count."""
        now = _read(graph)
        return len(now) == len(self._nodes) and all(map(_same, self._nodes, now))


def _read(graph: fx.Graph) -> list[tuple[fx.Node, Any, Any, Any]]:
    return [(node, node.target, node.args, node.kwargs) for node in graph.nodes]


def _same(x: tuple[fx.Node, Any, Any, Any], y: tuple[fx.Node, Any, Any, Any]) -> bool:
    return x[0] is y[0] and x[1] is y[1] and x[2] is y[2] and x[3] is y[3]
