"""The signature of an exported program: names, sizes and ranges of its inputs, and notices about them."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.capture.inputs import Call, leaf_names
from recfx.ir.bags import Bags
from recfx.ir.jagged import batch_leaf, is_jagged
from recfx.ir.leaves import LeafSpec
from recfx.ir.shapes import BATCH, positions, sizes_of
from recfx.ir.signature import Signature


def exported_signature(
    exported: torch.export.ExportedProgram,
    module: fx.GraphModule,
    call: Call,
    leaves: Sequence[Any],
    in_spec: pytree.TreeSpec,
    out_spec: pytree.TreeSpec,
    bags: Sequence[Bags],
    contiguous: Container[fx.Node],
) -> Signature:
    """The signature of an exported program.

    Args:
        exported: The exported program.
        module: The graph of the program, with the fake value of every placeholder.
        call: The example call.
        leaves: The leaves of the example inputs.
        in_spec: The nesting of the inputs.
        out_spec: The nesting of the outputs.
        bags: The bags among the leaves.
        contiguous: Placeholders that must be contiguous.
    """
    names = leaf_names(call)
    placeholders = module.graph.find_nodes(op="placeholder")
    symbols = _batch_symbol(call, [node.meta.get("val") for node in placeholders], bags)
    specs = []
    for leaf_name, node, leaf in zip(names, placeholders, leaves, strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            sizes, ordered = sizes_of(value, symbols), node in contiguous
            specs.append(LeafSpec(leaf_name, "tensor", value.dtype, value.device, sizes, contiguous=ordered))
        else:
            specs.append(LeafSpec(leaf_name, "constant", value=leaf))
    dims: dict[str, tuple[int, int | None]] = {}
    for symbol, bounds in exported.range_constraints.items():
        name = symbols.get(str(symbol))
        if name is not None:
            unbounded = str(bounds.upper) in ("int_oo", "oo") or int(bounds.upper) >= 2**62
            lower = min(int(bounds.lower), _derived_lower(exported, symbol))
            dims[name] = (lower, None if unbounded else int(bounds.upper))
    return Signature(
        parameters=call.names,
        defaults=call.defaults,
        in_spec=in_spec,
        out_spec=out_spec,
        leaves=tuple(specs),
        dims=dims,
        keyword_only=frozenset(call.kwargs),
    )


def _batch_symbol(call: Call, values: Sequence[Any], bags: Sequence[Bags]) -> dict[str, str]:
    """{symbol of the batch: "batch"}: from dimension 0 of the first plain tensor with a free one, else from the bounds of bags."""
    bounds = {group.bounds: 0 if group.by_row else -1 for group in bags}
    ids = {leaf for group in bags for leaf in group.members}
    told: dict[str, str] = {}
    parts = pytree.tree_leaves(call.values, is_leaf=is_jagged)
    for part, position in zip(parts, positions(parts), strict=True):
        holds_bags = is_jagged(part) or position in bounds
        leaf, axis = (batch_leaf(part) or (0, None)) if is_jagged(part) else (0, bounds.get(position, 0))
        value = values[position + leaf]
        if axis is None or position in ids or not isinstance(value, torch.Tensor) or not value.ndim:
            continue
        size = value.shape[axis]
        symbols = size.node.expr.free_symbols if isinstance(size, torch.SymInt) else ()
        found: dict[str, str] = {str(symbol): BATCH for symbol in symbols} if len(symbols) == 1 else {}
        if found and not holds_bags:
            return found
        told = told or found
    return told


def _derived_lower(exported: torch.export.ExportedProgram, symbol: Any) -> int:
    """The smallest value of a symbol that occurs in the inputs only inside a size such as `keys * batch` or `batch + 1`.

    Export assumes that such a symbol is at least 2; the range of the size gives the true minimum. For any other symbol, a large number.
    """
    lowest = [2**62]
    for expression, bounds in exported.range_constraints.items():
        if expression != symbol and expression.free_symbols == {symbol}:
            base = expression.subs({symbol: 0})
            factor = sympy.simplify((expression - base) / symbol)
            if factor.is_Integer and factor > 0:
                lowest.append(-((int(base) - int(bounds.lower)) // int(factor)))
    return min(lowest)


def fixed_input_notices(signature: Signature) -> list[str]:
    """Notices about inputs with fixed sizes in a program with a free batch."""
    fixed = [f"{leaf.name} {list(leaf.shape)}" for leaf in signature.leaves if _is_fixed(leaf)]
    if BATCH not in signature.dims or not fixed:
        return []
    return [
        f"the sizes of these inputs are fixed at those of the example: {', '.join(fixed)}; pass dynamic_shapes to free them"
    ]


def _is_fixed(leaf: LeafSpec) -> bool:
    """Whether an input has only fixed sizes, and more than one row."""
    return bool(leaf.shape) and leaf.shape[0] != 1 and all(isinstance(size, int) for size in leaf.shape)
