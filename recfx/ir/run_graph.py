"""Runs a graph node by node, without the overhead of `fx.Interpreter` for each node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

_INTERPRETED = ("call_method", "call_module")


def run_graph(module: fx.GraphModule, leaves: Sequence[Any]) -> list[Any]:
    """The flat outputs of a graph for flat inputs. Each value is released behind its last reader."""
    nodes = list(module.graph.nodes)
    inputs = sum(node.op == "placeholder" for node in nodes)
    if inputs != len(leaves) or any(node.op in _INTERPRETED for node in nodes):
        return list(fx.Interpreter(module).run(*leaves))
    given = iter(leaves)
    values: dict[fx.Node, Any] = {}
    last = _last_readers(nodes)
    for node in nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = _state(module, str(node.target))
        elif node.op == "output":
            return list(fx.map_arg(node.args[0], values.__getitem__))
        else:
            assert callable(node.target)
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
            del args, kwargs
        for read in last.get(node, ()):
            del values[read]
    raise AssertionError("the graph has no output")


def _last_readers(nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Node -> the values that no later node reads, its own included."""
    seen: set[fx.Node] = set()
    last: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(nodes):
        for read in (*node.all_input_nodes, node):
            if read not in seen:
                seen.add(read)
                last.setdefault(node, []).append(read)
    return last


def _state(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module
