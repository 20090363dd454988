"""Which assertions of a graph hold for every input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sympy
import torch
from sympy.core.relational import Relational
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, statically_known_true
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

_aten = torch.ops.aten
Ranges = dict[sympy.Symbol, Any]

#: Operators that find elements of their arguments; the size of a result is at most the number of elements of one argument.
_FINDING = (
    *(_aten.nonzero.default, _aten.index.Tensor),
    *(_aten._unique2.default, _aten.unique_consecutive.default, _aten.unique_dim.default),
)


def holds(condition: Any, sizes: Callable[[], Ranges]) -> bool:
    """Whether a condition holds for every input: a constant, or a comparison that the ranges of the sizes decide.

    A number that an operator reads from a tensor has a symbol, too. The tracer takes every assertion about such a symbol for a fact, and
    would find it true. So only the ranges that operators guarantee count there, unless the assertion relates sizes and positions to each
    other: the operators that take them check how they fit.

    Args:
        condition: The asserted condition: a constant or a node.
        sizes: Returns the `size_ranges` of the graph. It is called only for conditions on numbers that operators read.
    """
    if isinstance(condition, bool | int):
        return bool(condition)
    held = condition.meta.get("val") if isinstance(condition, fx.Node) else None
    if isinstance(held, bool):
        return held
    if not isinstance(held, torch.SymBool):
        return False
    read = free_unbacked_symbols(held)
    guaranteed = sizes() if read else {}
    if read <= guaranteed.keys() and not _bounds_one_size(held.node.expr):
        return bool(statically_known_true(held))
    known = {**held.node.shape_env.var_to_range, **dict.fromkeys(read, ValueRanges(-int_oo, int_oo)), **guaranteed}
    found = bound_sympy(held.node.expr, known)
    return found.is_singleton() and found.lower == sympy.true


def _bounds_one_size(condition: sympy.Basic) -> bool:
    """Whether a condition compares one size with a number."""
    if not isinstance(condition, Relational):
        return False
    return any(side.is_Symbol for side in condition.args) and any(side.is_number for side in condition.args)


def size_ranges(graph: fx.Graph) -> Ranges:
    """The ranges of symbols that are sizes of tensors, or sizes and positions that operators take.

    They are not negative, and at most the number of elements among which an operator finds some.
    """
    found: Ranges = {}
    for node in graph.nodes:
        held = node.meta.get("val")
        for tensor in held if isinstance(held, list | tuple) else [held]:
            for size in tensor.shape if isinstance(tensor, torch.Tensor) else ():
                if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol and free_unbacked_symbols(size):
                    found.setdefault(size.node.expr, ValueRanges(0, _most(node)))
        for symbol in _taken_as_sizes(node):
            found.setdefault(symbol, ValueRanges(0, int_oo))
    return found


def _taken_as_sizes(node: fx.Node) -> Iterator[sympy.Symbol]:
    """The symbols of sizes and positions among the arguments of an operator."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    for position, argument in enumerate(node.target._schema.arguments):
        if "int" not in str(argument.type):  # a factor is a number
            continue
        given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        for size in given if isinstance(given, list | tuple) else [given]:
            held = size.meta.get("val") if isinstance(size, fx.Node) else None
            if isinstance(held, torch.SymInt):
                yield from free_unbacked_symbols(held)


def _most(node: fx.Node) -> Any:
    """An upper bound of the sizes that an operator finds in the values of its arguments."""
    tensors = [n.meta["val"] for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    if node.target is _aten.masked_select.default:
        tensors = [tensor.broadcast_to(torch.broadcast_shapes(*(t.shape for t in tensors))) for tensor in tensors[:1]]
    elif node.target not in _FINDING:
        return int_oo
    counts = [tensor.numel() for tensor in tensors]
    bounds = [c.node.shape_env.bound_sympy(c.node.expr).upper if isinstance(c, torch.SymInt) else c for c in counts]
    return max(bounds, default=int_oo)
