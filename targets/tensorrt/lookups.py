"""The lookups of a region and the check of their ids. TensorRT reads outside a table without an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.ir.op_sets import EMBEDDING_BAGS
from recfx.ir.region import Region
from recfx.ops.to_aten import decompose_module
from recfx.targets.id_checks import checked, ids_function
from recfx.targets.region_sizes import expression_of, is_size

_aten = torch.ops.aten

#: Operators that read rows -> the positions of the table and of the ids among their arguments.
READS: dict[Any, tuple[int, int]] = {
    _aten.embedding.default: (0, 1),
    _aten.index_select.default: (0, 2),
    **dict.fromkeys(EMBEDDING_BAGS, (0, 1)),
}


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Ids that select rows of a table.

    Attributes:
        ids: The node of the ids.
        rows: The number of rows that they select from.
    """

    ids: fx.Node
    rows: int


def lookups_of(region: Region) -> tuple[Lookup, ...]:
    """The lookups of a region without operators of the dialect, except those with constant ids."""
    found = {}
    for node in region.graph.nodes:
        if node.target in READS:
            ids, rows = ids_of(node)
            if ids.op != "get_attr" and isinstance(rows, int):
                found[ids, rows] = Lookup(ids, rows)
    return tuple(found.values())


def ids_of(node: fx.Node) -> tuple[fx.Node, int | str]:
    """The ids of a lookup, and the size of the dimension that they select from."""
    table, ids = (node.args[at] for at in READS[node.target])
    assert isinstance(table, fx.Node)
    assert isinstance(ids, fx.Node)
    held = table.meta["val"]
    dim = node.args[1] if node.target is _aten.index_select.default else 0
    assert isinstance(dim, int)
    return ids, expression_of(held.shape[dim % max(held.ndim, 1)])


def is_checkable(ids: fx.Node) -> bool:
    """Whether ids follow from integers alone, so that torch can compute and check them before a call at little cost."""
    left, seen = [ids], set[fx.Node]()
    while left:
        node = left.pop()
        if node in seen or is_size(node):
            continue
        seen.add(node)
        held = pytree.tree_leaves(node.meta.get("val"))
        if any(isinstance(value, torch.Tensor) and value.is_floating_point() for value in held):
            return False
        left.extend(node.all_input_nodes)
    return True


class IdCheck:
    """Checks the ids of all lookups of a call, on the device where they are.

    Args:
        region: A region without operators of the dialect.
        lookups: Its lookups.
    """

    def __init__(self, region: Region, lookups: Sequence[Lookup]) -> None:
        self._lookups = tuple(lookups)
        self._ids = ids_function(region, [(lookup.ids, lookup.rows) for lookup in lookups]) if lookups else None

    @staticmethod
    def of(region: Region) -> IdCheck:
        """The check of the ids of a region."""
        plain = region.clone()
        decompose_module(plain.module)
        return IdCheck(plain, lookups_of(plain))

    def __call__(self, *values: Any) -> None:
        """Raises `IdError` for an id outside its table. `values` are the region's inputs."""
        if self._ids is None:
            return
        found: Sequence[torch.Tensor] = self._ids(*values)
        if self._all_inside(found):
            return
        for ids, lookup in zip(found, self._lookups, strict=True):
            checked(ids, lookup.ids, lookup.rows)

    def _all_inside(self, found: Sequence[torch.Tensor]) -> bool:
        """Whether the ids are inside their tables. All results of a GPU are read at once, as each read waits for it."""
        flags = [
            (ids.amin() >= 0) & (ids.amax() < lookup.rows)
            for ids, lookup in zip(found, self._lookups, strict=True)
            if ids.numel()
        ]
        return not flags or bool(torch.stack(flags).all())
