"""The rows that an embedding bag reads, as a separate table: a sum in float64 then does not widen the whole table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_aten = torch.ops.aten

#: Operator -> position of its padding index, -1 without.
BAGS: dict[Any, int] = {_aten.embedding_bag.default: -1, _aten.embedding_bag.padding_idx: 8}


def with_read_rows(target: Any, args: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments of an embedding bag whose table holds the rows that are read and no others, as float64.

    Args:
        target: A key of BAGS.
        args: Its arguments; a table of a floating-point type, and ids.

    Returns:
        Arguments that mean the same; those given where ids lie outside of the table, which is for the operator to say.
    """
    table, ids, *rest = args
    read, places = torch.unique(ids, return_inverse=True)
    if not len(read) or int(read[0]) < 0 or int(read[-1]) >= len(table):
        return (table.double(), ids, *rest) if not len(read) else tuple(args)
    at = BAGS[target] - 2
    if at >= 0 and len(rest) > at and rest[at] is not None:
        # A padding row that is not read needs no mark.
        found = (read == rest[at] % len(table)).nonzero()
        rest[at] = int(found[0]) if len(found) else None
    return (table[read.long()].double(), places.to(ids.dtype), *rest)
