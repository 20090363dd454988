"""Which assertions of a graph hold for every input."""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Uses:
    """The uses of the numbers that operators of a graph read from tensors, by symbol.

    Attributes:
        sizes: Sizes of tensors, and sizes that operators take -> their range. They are not negative, and at most the number of elements
            among which an operator finds some.
        taken: The sizes and positions that operators take.
        signed: Numbers that operators compute with, and positions, which count from the end if they are negative.
    """

    sizes: Ranges = dataclasses.field(default_factory=dict)
    taken: set[sympy.Symbol] = dataclasses.field(default_factory=set)
    signed: set[sympy.Symbol] = dataclasses.field(default_factory=set)

    def range_of(self, symbol: sympy.Symbol) -> Any:
        """The range of a symbol. `>= 0` about a number that no operator reads as signed only tells the tracer that it is a size."""
        return self.sizes.get(symbol, ValueRanges(-int_oo if symbol in self.signed else 0, int_oo))


#: Arguments of operators that are positions or distances. Operators take negative ones.
_POSITIONS = ("index", "start", "end", "shifts", "offset", "diagonal")


#: Operators that find elements of their arguments; the size of a result is at most the number of elements of one argument.
_FINDING = (
    *(_aten.nonzero.default, _aten.index.Tensor),
    *(_aten._unique2.default, _aten.unique_consecutive.default, _aten.unique_dim.default),
)


def holds(condition: Any, uses: Callable[[], Uses]) -> bool:
    """Whether a condition holds for every input: a constant, or a comparison that the ranges of the sizes decide.

    A number that an operator reads from a tensor has a symbol, too. The tracer takes every assertion about such a symbol for a fact, and
    would find it true. So only the ranges that operators guarantee count there, unless the assertion relates sizes and positions that
    operators take: they check how these fit. No operator checks the number of elements that it finds: an assertion that two such sizes
    are equal stays, since passes remove reshapes between equal sizes, and arithmetic repeats a single element.

    Args:
        condition: The asserted condition: a constant or a node.
        uses: Returns the `uses_of_numbers` of the graph. It is called only for conditions on numbers that operators read.
    """
    if isinstance(condition, bool | int):
        return bool(condition)
    held = condition.meta.get("val") if isinstance(condition, fx.Node) else None
    if isinstance(held, bool):
        return held
    if not isinstance(held, torch.SymBool):
        return False
    read = free_unbacked_symbols(held)
    known = uses() if read else Uses()
    if read <= known.taken and not _bounds_one_size(held.node.expr):
        return bool(statically_known_true(held))
    ranges = {**held.node.shape_env.var_to_range, **{symbol: known.range_of(symbol) for symbol in read}}
    found = bound_sympy(held.node.expr, ranges)
    return found.is_singleton() and found.lower == sympy.true


def _bounds_one_size(condition: sympy.Basic) -> bool:
    """Whether a condition compares one size with a number."""
    if not isinstance(condition, Relational):
        return False
    return any(side.is_Symbol for side in condition.args) and any(side.is_number for side in condition.args)


def uses_of_numbers(graph: fx.Graph) -> Uses:
    """The uses of all numbers that operators of a graph read from tensors."""
    found = Uses()
    for node in graph.nodes:
        held = node.meta.get("val")
        for tensor in held if isinstance(held, list | tuple) else [held]:
            for size in tensor.shape if isinstance(tensor, torch.Tensor) else ():
                if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol and free_unbacked_symbols(size):
                    found.sizes.setdefault(size.node.expr, ValueRanges(0, _most(node)))
        for symbol, argument in _given(node):
            integer = "int" in str(argument.type)
            if integer:
                found.taken.add(symbol)
            if integer and argument.name not in _POSITIONS:
                found.sizes.setdefault(symbol, ValueRanges(0, int_oo))
            else:
                found.signed.add(symbol)
    return found


def _given(node: fx.Node) -> Iterator[tuple[sympy.Symbol, Any]]:
    """The symbols in the arguments of an operator, each with the argument's declaration."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target is _aten.scalar_tensor.default:
        return
    for position, argument in enumerate(node.target._schema.arguments):
        given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        for size in given if isinstance(given, list | tuple) else [given]:
            held = size.meta.get("val") if isinstance(size, fx.Node) else None
            if isinstance(held, torch.SymInt):
                yield from ((symbol, argument) for symbol in free_unbacked_symbols(held))


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
