"""A small table of the rows that an embedding bag reads, so that a float64 run does not widen the whole table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_aten = torch.ops.aten

#: Operator -> position of its padding index; -1 when it has none.
BAGS: dict[Any, int] = {_aten.embedding_bag.default: -1, _aten.embedding_bag.padding_idx: 8}


def with_read_rows(target: Any, args: Sequence[Any]) -> tuple[Any, ...]:
    """Equivalent arguments of an embedding bag, with a float64 table that holds only the rows that the bag reads.

    Args:
        target: A key of BAGS.
        args: The arguments of the operator: a floating-point table, ids, and the rest.

    Returns:
        The new arguments. Arguments with ids outside of the table are returned unchanged: the operator raises the error.
    """
    table, ids, *rest = args
    read, places = torch.unique(ids, return_inverse=True)
    if not len(read) or int(read[0]) < 0 or int(read[-1]) >= len(table):
        return (table.double(), ids, *rest) if not len(read) else tuple(args)
    at = BAGS[target] - 2
    if at >= 0 and len(rest) > at and rest[at] is not None:
        # A padding row that no id reads needs no padding index.
        found = (read == rest[at] % len(table)).nonzero()
        rest[at] = int(found[0]) if len(found) else None
    return (table[read.long()].double(), places.to(ids.dtype), *rest)
