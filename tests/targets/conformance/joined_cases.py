"""Several conformance cases in one program, for backends that compile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import getitem

import torch
from conformance_kit import Case, Input, Size, is_operand_of_case, node_of, operands_of, read_parts
from torch.utils import _pytree as pytree

from recfx.ir.program import Program
from recfx.testing.builder import GraphBuilder


def joined(cases: Sequence[Case]) -> Program | None:
    """The operators of several cases in one program; None when they disagree about an input."""
    inputs: dict[str, Input] = {}
    for leaf in (leaf for case in cases for leaf in operands_of((case.args, case.keywords))):
        held = leaf.of if isinstance(leaf, Size) else leaf
        if isinstance(held, Input) and inputs.setdefault(held.name, held) != held:
            return None
    builder = GraphBuilder({name: (given.shape, given.dtype) for name, given in inputs.items()})
    outputs = []
    for case in cases:
        args, keywords = pytree.tree_map(
            lambda leaf: node_of(builder, leaf), (case.args, case.keywords), is_leaf=is_operand_of_case
        )
        made = builder.call(case.target, *args, **keywords)
        value = made.meta["val"]
        if isinstance(value, torch.Tensor):
            outputs.append(made)
            continue
        outputs += [builder.call(getitem, made, i) for i in read_parts(case.target, value)]
    return builder.build(*outputs)


def groups(cases: Sequence[Case], together: int = 16) -> Iterator[tuple[Sequence[Case], Program]]:
    """Groups of at most `together` cases that fit in one program, and the programs."""
    for at in range(0, len(cases), together):
        part = cases[at : at + together]
        program = joined(part)
        if program is not None:
            yield part, program
        else:
            yield from groups(part, max(together // 2, 1))
