"""Operators that look up rows of tables. The dialect adds its own operators to these sets."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import TABLE_LOOKUPS

_aten = torch.ops.aten

#: Operator -> position of its table, or of its list of tables.
TABLE_ARGUMENTS: dict[Any, int] = dict.fromkeys(TABLE_LOOKUPS, 0)

#: Lookups that only copy the rows they pick, so that their table may have a narrower type than their result.
ROW_PICKERS: set[Any] = {_aten.embedding.default}


#: Identifies the memory of a tensor and how it is read: address, dtype, sizes and strides.
TableKey = tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...]]


def table_key(tensor: torch.Tensor) -> TableKey:
    """Identifies the memory of a tensor and how it is read. Tied parameters have one key."""
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def tables_of(node: fx.Node) -> list[fx.Node]:
    """The tables in which a node looks up rows; empty for any other operator."""
    if node.target not in TABLE_ARGUMENTS:
        return []
    held: Any = node.args[TABLE_ARGUMENTS[node.target]]
    return [t for t in (held if isinstance(held, list | tuple) else [held]) if isinstance(t, fx.Node)]


def reads_as_table(user: fx.Node, table: fx.Node) -> bool:
    """Whether a user of a table only looks up rows in it."""
    if table not in tables_of(user):
        return False
    rest = [held for i, held in enumerate(user.args) if i != TABLE_ARGUMENTS[user.target]]
    return not any(table in (held if isinstance(held, list | tuple) else [held]) for held in rest)


def only_picks_rows(user: fx.Node, table: fx.Node) -> bool:
    """Whether a user of a table only copies the rows that it picks."""
    return user.target in ROW_PICKERS and reads_as_table(user, table)
