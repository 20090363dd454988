"""Comparison of two programs as graphs: the nodes that a pass removed, added or rewired, and the first difference of two graphs."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from recfx.ir.numeric import same_bits
from recfx.ir.printer import describe, operator_name
from recfx.ir.program import Program, get_state
from recfx.ir.provenance import module_path


def diff(before: Program, after: Program) -> str:
    """The difference of two programs as text, operators aligned by provenance; "" when nothing changed.

    A node descends from the node of the same name, or from the nodes in its `from_node` history. A node without a descendant was removed,
    a node without an ancestor was added. Lines begin with "- " for `before` and with "+ " for `after`.
    """
    old = {n.name: n for n in before.graph.nodes if n.op == "call_function"}
    new = {n.name: n for n in after.graph.nodes if n.op == "call_function"}
    lines: list[str] = []
    matcher = difflib.SequenceMatcher(a=list(old), b=[ancestor(n, old) or n.name for n in new.values()], autojunk=False)
    new_nodes = list(new.values())
    old_nodes = list(old.values())
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        if tag == "equal":
            for a, b in zip(old_nodes[a0:a1], new_nodes[b0:b1], strict=True):
                if describe(a) != describe(b):
                    lines += [f"- {_line(a)}", f"+ {_line(b)}"]
        else:
            lines += [f"- {_line(n)}" for n in old_nodes[a0:a1]]
            lines += [f"+ {_line(n)}" for n in new_nodes[b0:b1]]
    if lines:
        lines.append(_counts(old.values(), new.values()))
    return "\n".join(lines)


def ancestor(node: fx.Node, names: dict[str, fx.Node]) -> str | None:
    """The key of `names` that is `node`'s own name or the name of an ancestor; None without one."""
    if node.name in names:
        return node.name
    sources = list(node.meta.get("from_node") or [])
    while sources:
        source = sources.pop()
        name = getattr(source, "name", None)
        if name in names:
            return str(name)
        sources += getattr(source, "from_node", None) or []
    return None


def same_graph(a: Program, b: Program) -> str | None:
    """The first difference of two programs in words; None when they are equal up to the names of nodes.

    Equal programs agree in operators, arguments, order of inputs and outputs, recorded dtypes, and values of state.
    """
    partner: dict[fx.Node, fx.Node] = {}
    left, right = _ordered(a.graph), _ordered(b.graph)
    for x, y in zip(left, right, strict=False):
        if x.op != y.op:
            return f"{_line(x)} against {_line(y)}"
        if x.op == "get_attr":
            if not _same_state(get_state(a.module, str(x.target)), get_state(b.module, str(y.target))):
                return f"the state {x.target} differs from {y.target}"
        elif x.op == "call_function" and x.target != y.target:
            return f"{_line(x)} against {_line(y)}"
        if x.op != "placeholder" and not same_arguments((x.args, x.kwargs), (y.args, y.kwargs), partner):
            return f"different arguments: {_line(x)} against {_line(y)}"
        partner[x] = y
    if len(left) != len(right):
        longer = left if len(left) > len(right) else right
        return f"{len(left)} nodes against {len(right)}; the first extra one is {_line(longer[min(len(left), len(right))])}"
    return None


def _ordered(graph: fx.Graph) -> list[fx.Node]:
    """The nodes in an order that only the data flow determines: inputs first, then depth-first from the output."""
    nodes = list(graph.find_nodes(op="placeholder"))
    seen = set(nodes)

    def visit(node: fx.Node) -> None:
        stack: list[tuple[fx.Node, bool]] = [(node, False)]
        while stack:
            top, done = stack.pop()
            if done:
                nodes.append(top)
            elif top not in seen:
                seen.add(top)
                stack.append((top, True))
                stack.extend((n, False) for n in reversed(top.all_input_nodes))

    visit(next(iter(reversed(graph.nodes))))
    for node in graph.nodes:  # operators with effects, and dead code
        visit(node)
    return nodes


def same_arguments(x: Any, y: Any, partner: dict[fx.Node, fx.Node]) -> bool:
    """Whether the arguments of two nodes are equal, where each node that one reads has its partner in place."""
    if isinstance(x, fx.Node):
        return isinstance(y, fx.Node) and partner.get(x) is y
    if isinstance(x, tuple | list):
        if not isinstance(y, tuple | list) or len(x) != len(y):
            return False
        for i, j in zip(x, y, strict=True):  # noqa: SIM110 - all() takes longer, and graphs have many arguments
            if not same_arguments(i, j, partner):
                return False
        return True
    if isinstance(x, dict):
        return isinstance(y, dict) and x.keys() == y.keys() and all(same_arguments(x[k], y[k], partner) for k in x)
    if isinstance(x, float) and x != x:
        return isinstance(y, float) and y != y
    return type(x) is type(y) and bool(x == y)


def _same_state(x: Any, y: Any) -> bool:
    if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
        return x is y
    return x is y or (x.shape == y.shape and x.dtype is y.dtype and same_bits(x, y))


def _line(node: fx.Node) -> str:
    if node.op != "call_function":
        return f"{node.op} {node.target}"
    path = module_path(node)
    return describe(node) + (f"   [{path}]" if path else "")


def _counts(old: Iterable[fx.Node], new: Iterable[fx.Node]) -> str:
    before = Counter(operator_name(n.target) for n in old)
    after = Counter(operator_name(n.target) for n in new)
    changes = [
        f"{name} {before[name]} → {after[name]}" for name in sorted(before | after) if before[name] != after[name]
    ]
    return f"operators: {before.total()} → {after.total()}" + (f" ({', '.join(changes)})" if changes else "")
