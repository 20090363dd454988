"""The same program with its dimensions counted from the other end: `dim=1` of a matrix becomes `dim=-1`, and `dim=-1`
becomes `dim=1`. Models are written in both ways, so a pass must fire on both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir import Program

_aten = torch.ops.aten

#: Names of arguments that are dimensions of a tensor -> the place of the tensor among the arguments.
_DIMENSIONS = {
    **dict.fromkeys(("dim", "dims", "dim0", "dim1", "start_dim", "end_dim", "dims_self"), 0),
    "dims_other": 1,
}

#: Operators whose dimension is one of the result, which has one dimension more.
_INSERTING = (_aten.unsqueeze.default, _aten.stack.default)


def with_other_dims(program: Program) -> Program:
    """A copy of a program in which every operator of ATen counts its dimensions from the other end."""
    copy = program.clone()
    for node in copy.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
            _respell(node)
    copy.module.recompile()
    return copy


def _respell(node: fx.Node) -> None:
    for place, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name not in _DIMENSIONS or "int" not in str(argument.type):
            continue
        rank = _rank(node, _DIMENSIONS[argument.name])
        if place < len(node.args):
            node.update_arg(place, _other(node.args[place], rank))
        elif argument.name in node.kwargs:
            node.update_kwarg(argument.name, _other(node.kwargs[argument.name], rank))


def _rank(node: fx.Node, tensor: int) -> int:
    """The number of dimensions among which the dimensions of an operand count; 0 for an operand that is not a tensor."""
    first: Any = node.args[tensor] if tensor < len(node.args) else None
    first = first[0] if isinstance(first, list | tuple) and first else first
    held = first.meta.get("val") if isinstance(first, fx.Node) else None
    return held.ndim + (node.target in _INSERTING) if isinstance(held, torch.Tensor) else 0


def _other(dim: Any, rank: int) -> Any:
    if isinstance(dim, list | tuple):
        return [_other(d, rank) for d in dim]
    if not isinstance(dim, int) or not rank:
        return dim
    return dim - rank if dim >= 0 else dim + rank
