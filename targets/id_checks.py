"""Checks of ids and of 64-bit integers before calls of libraries that do not check them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.errors import IdError
from recfx.ir.op_sets import COPIES, JOINS, PERMUTATIONS, REGROUPINGS, SLICES, SPLITS
from recfx.ir.provenance import where
from recfx.ir.region import Region
from recfx.runtime.flat import flat_function
from recfx.targets.region_sizes import is_size

_aten = torch.ops.aten

#: Operators that move integers without computing any.
_MOVES = frozenset((*REGROUPINGS, *PERMUTATIONS, *SLICES, *COPIES, *SPLITS, *JOINS, _aten.select.int))
_GETITEM = "getitem"

#: Reads and writes at computed places: operator -> the position of the places among its arguments.
_PLACES: dict[Any, int] = {
    _aten.index_select.default: 2,
    _aten.index.Tensor: 1,
    _aten.gather.default: 2,
    _aten.scatter.src: 2,
    _aten.scatter.value: 2,
    _aten.scatter_add.default: 2,
    _aten.scatter_reduce.two: 2,
    _aten.index_put.default: 1,
    _aten.index_add.default: 2,
    _aten.index_copy.default: 2,
    _aten.take.default: 1,
    _aten.one_hot.default: 0,
}


def is_moved_input(node: fx.Node) -> bool:
    """Whether a value is an input of the region or a constant, or consists of elements of such."""
    if node.op in ("placeholder", "get_attr"):
        return True
    return moves_integers(node) and all(is_size(source) or is_moved_input(source) for source in node.all_input_nodes)


def moves_integers(node: fx.Node) -> bool:
    """Whether an operator returns elements of its operands, and computes none."""
    return node.target in _MOVES or getattr(node.target, "__name__", "") == _GETITEM


def has_computed_places(node: fx.Node) -> bool:
    """Whether an operator reads or writes at places that are not constants, as `gather` does."""
    if node.target not in _PLACES:
        return False
    leaves = pytree.tree_leaves(node.args[_PLACES[node.target]])
    return any(leaf.op != "get_attr" for leaf in leaves if isinstance(leaf, fx.Node))


def ids_function(region: Region, lookups: Sequence[tuple[fx.Node, int]]) -> Callable[..., Any]:
    """A function of the region's inputs that returns the ids of some lookups, computed by torch.

    Args:
        region: The region.
        lookups: Nodes of ids with the number of rows they select from.
    """
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    wanted = _ancestors([node for node, _ in lookups])
    for node in region.graph.nodes:
        if node.op == "placeholder" or node in wanted:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node, _ in lookups))
    return flat_function(Region(fx.GraphModule(region.module, graph)))


def _ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    found, left = set[fx.Node](), list(nodes)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left.extend(node.all_input_nodes)
    return found


def checked(ids: torch.Tensor, node: fx.Node, rows: int) -> None:
    """Raises `IdError` for an id outside [0, rows)."""
    if not ids.numel():
        return
    low, high = (int(value) for value in ids.aminmax())
    if low < 0 or high >= rows:
        bad = low if low < 0 else high
        raise IdError(
            f"{node.name}: id {bad} is outside its table of {rows} rows",
            where=where(node),
            hint=f"ids of this feature must be in [0, {rows})",
        )


def fits_32_bits(values: torch.Tensor) -> bool:
    """Whether all 64-bit integers have the same value with 32 bits."""
    if not values.numel():
        return True
    low, high = values.aminmax()
    return bool(low >= -(2**31)) and bool(high < 2**31)
