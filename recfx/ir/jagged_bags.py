"""The bags of a program's jagged tensors, which describe their own bags, as those that capture found among plain leaves.

They follow from the signature alone, because a loaded program has no example.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils import _pytree as pytree

from recfx.ir.bags import Bags, Form, Stream
from recfx.ir.containers import JAGGED, KEYED_JAGGED, LENGTHS, STRIDES, VALUES, WEIGHTS, container_kind
from recfx.ir.program import Program


def all_bags(program: Program) -> tuple[Bags, ...]:
    """The bags among the leaves of a program, those of jagged tensors included."""
    return (*program.bags, *jagged_bags(program))


def jagged_bags(program: Program) -> list[Bags]:
    """The bags of jagged tensors with one bag for each key and row of the batch."""
    found = []
    for spec, position in _jagged_tensors(program.signature.in_spec, 0):
        leaves = program.signature.leaves[position : position + spec.num_leaves]
        given = [leaf.kind != "constant" or leaf.value is not None for leaf in leaves]
        keys = 1 if container_kind(spec.type) == JAGGED else len(spec.context)
        if not given[LENGTHS] or any(given[STRIDES:]) or not keys:
            continue
        ids = tuple(position + i for i in (VALUES, WEIGHTS) if given[i])
        found.append(Bags(position + LENGTHS, Form.LENGTHS, keys, (Stream(ids),)))
    return found


def _jagged_tensors(spec: pytree.TreeSpec, position: int) -> Iterator[tuple[pytree.TreeSpec, int]]:
    """The jagged tensors in a nesting, each with the position of its first leaf."""
    if container_kind(spec.type) in (JAGGED, KEYED_JAGGED):
        yield spec, position
        return
    for child in spec.children():
        yield from _jagged_tensors(child, position)
        position += child.num_leaves
