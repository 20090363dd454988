"""merge-duplicates: the same operator on the same arguments is computed once (common subexpression elimination).

    op(a, b), ..., op(a, b) -> one op(a, b)
    two reads of one parameter -> one read
    two index tensors with the same numbers -> one index tensor

Requires: functional. Exactness: EXACT.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.dead_code import EFFECTS
from recfx.ir.program import Program
from recfx.passes._match import is_random
from recfx.pipeline import Pass, PassContext, PassSpec, register

#: The most numbers of an index tensor that is compared by value.
_LARGEST_INDEX = 4096


@register
class MergeDuplicates(Pass):
    """Computes equal expressions once."""

    spec = PassSpec("merge-duplicates", "Computes equal expressions once.")

    def run(self, program: Program, ctx: PassContext) -> None:
        first: dict[Any, fx.Node] = {}
        for node in list(ctx.graph.nodes):
            key = _key(node, ctx)
            if key is None:
                continue
            earlier = first.setdefault(key, node)
            if earlier is not node and ctx.gate("merge", node):
                ctx.replace(node, earlier)


def _key(node: fx.Node, ctx: PassContext) -> Any:
    """A key that is equal for nodes with equal results; None for a node that must not be merged."""
    if node.op == "get_attr":
        tensor = ctx.tensor(node)
        return _state_key(tensor) if tensor is not None else None
    if node.op != "call_function" or node.target in EFFECTS or is_random(node):
        return None
    try:
        key = (node.target, _freeze(node.args), _freeze(dict(sorted(node.kwargs.items()))))
        hash(key)
    except TypeError:
        ctx.miss("merge", node, "an argument cannot be compared")
        return None
    return key


def _state_key(tensor: torch.Tensor) -> Any:
    """A key that is equal for reads of one tensor, and for small index tensors with the same numbers.

    Tracers make a tensor of its own for each index list that a model writes out, `x[:, [3]]`.
    """
    small = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.numel() <= _LARGEST_INDEX
    if not small or type(tensor) is not torch.Tensor or tensor.dtype not in (torch.int64, torch.int32):
        return "state", id(tensor)
    return "numbers", tensor.dtype, tuple(tensor.shape), tensor.stride(), tuple(tensor.reshape(-1).tolist())


def _freeze(value: Any) -> Any:
    """An argument as a hashable value, different for 1, 1.0 and True, and for 0.0 and -0.0."""
    if isinstance(value, tuple | list):
        return (type(value), tuple(_freeze(v) for v in value))
    if isinstance(value, dict):
        return tuple((k, _freeze(v)) for k, v in value.items())
    if isinstance(value, slice):
        return ("slice", _freeze((value.start, value.stop, value.step)))
    if isinstance(value, float):
        return (float, value.hex() if value == value else "nan")
    if isinstance(value, torch.Tensor):
        raise TypeError("a tensor is not a literal")
    return (type(value), value)
