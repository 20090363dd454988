"""The bags of a program's jagged tensors, which describe their own bags, as those that capture found among plain leaves."""

from __future__ import annotations

from torch.utils import _pytree as pytree

from recfx.ir.bags import Bags, Form, Stream
from recfx.ir.containers import LENGTHS, STRIDES, VALUES, WEIGHTS
from recfx.ir.jagged import is_jagged, leaf_count, row_keys
from recfx.ir.program import Program
from recfx.ir.shapes import positions


def all_bags(program: Program) -> tuple[Bags, ...]:
    """The bags among the leaves of a program, those of jagged tensors included."""
    return (*program.bags, *jagged_bags(program))


def jagged_bags(program: Program) -> list[Bags]:
    """The bags of jagged tensors with one bag for each key and row of the batch."""
    parts = pytree.tree_leaves(program.signature.nested(program.example), is_leaf=is_jagged)
    found = []
    for part, position in zip(parts, positions(parts), strict=True):
        if not is_jagged(part):
            continue
        own = program.example[position : position + leaf_count(part)]
        keys = row_keys(part)
        if own[LENGTHS] is None or any(other is not None for other in own[STRIDES:]) or not keys:
            continue
        ids = tuple(position + i for i in (VALUES, WEIGHTS) if own[i] is not None)
        found.append(Bags(position + LENGTHS, Form.LENGTHS, keys, (Stream(ids),)))
    return found
