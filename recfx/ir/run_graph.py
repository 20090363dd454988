"""Runs a graph node by node, without the overhead of `fx.Interpreter` for each node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from recfx.ir.state_paths import get_state

_INTERPRETED = ("call_method", "call_module")


#: Computes an operator: its function, positional and keyword arguments -> its result.
Call = Callable[[Any, Any, Any], Any]
#: Gives what a read of state holds: the read, the state -> the value.
Read = Callable[[fx.Node, Any], Any]


def run_graph(
    module: fx.GraphModule, leaves: Sequence[Any], *, call: Call | None = None, read: Read | None = None
) -> list[Any]:
    """The flat outputs of a graph for flat inputs. Each value is released behind its last reader.

    Args:
        module: The graph. With `call` or `read`, all its operators are functions.
        leaves: The flat inputs.
        call: Computes operators in another way.
        read: Gives the values of reads of state in another way.
    """
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
            held = get_state(module, str(node.target))
            values[node] = held if read is None else read(node, held)
        elif node.op == "output":
            return list(fx.map_arg(node.args[0], values.__getitem__))
        else:
            assert callable(node.target)
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs) if call is None else call(node.target, args, kwargs)
            del args, kwargs
        for done in last.get(node, ()):
            del values[done]
    raise AssertionError("the graph has no output")


def _last_readers(nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Node -> the values that no later node reads, its own included."""
    seen: set[fx.Node] = set()
    last: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(nodes):
        for source in (*node.all_input_nodes, node):
            if source not in seen:
                seen.add(source)
                last.setdefault(node, []).append(source)
    return last
