"""Fields of an interaction: the vectors that are multiplied with each other, and the tensor [B, F, D] that holds them all."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.op_sets import JOINS
from recfx.passes._match import argument, same_shape, value
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Field:
    """One vector per row of the batch.

    Attributes:
        node: A tensor [B, D] or [B, 1, D]; with `index`, a tensor [B, F, D] that holds the field.
        index: Position in the node's second dimension; -1 for the node itself.
    """

    node: fx.Node
    index: int = -1


Pair = tuple[Field, Field]


def field_of(node: Any) -> Field | None:
    """The field at a node [B, D] or [B, 1, D]; None for a node of another shape."""
    held = value(node)
    if held is None or held.dtype is not torch.float32 or not held.ndim or not isinstance(held.shape[-1], int):
        return None
    if held.ndim == 3 and held.shape[1] == 1:
        if node.target is _aten.unsqueeze.default and node.args[1] in (1, -2):
            return field_of(node.args[0])
        if node.target is _aten.slice.Tensor and argument(node, 1, "dim", 0) in (1, -2):
            return _taken(node.args[0], argument(node, 2, "start"))
        return Field(node)
    if held.ndim != 2:
        return None
    if node.target is _aten.squeeze.dim and node.args[1] in (1, -2):
        return field_of(node.args[0])
    if node.target is _aten.select.int and node.args[1] in (1, -2):
        return _taken(node.args[0], node.args[2])
    if node.target is operator.getitem and node.args[0].target is _aten.unbind.int:
        unbound = node.args[0]
        if argument(unbound, 1, "dim", 0) in (1, -2):
            return _taken(unbound.args[0], node.args[1])
    return Field(node)


def _taken(source: Any, index: Any) -> Field | None:
    held = value(source)
    if held is None or held.ndim != 3 or not isinstance(held.shape[1], int) or not isinstance(index, int):
        return None
    return Field(source, index % held.shape[1])


def fields_along(ctx: PassContext, node: Any) -> list[Field] | None:
    """The fields of a tensor [B, N, D] in order, if it is a stack, a cat, or an indexing with constants."""
    held = value(node)
    if held is None or held.ndim != 3:
        return None
    if node.target in JOINS:
        if argument(node, 1, "dim", 0) not in (1, -2):
            return None
        parts = [field_of(part) for part in node.args[0]]
        sizes = [value(part) for part in node.args[0]]
        single = node.target is _aten.stack.default or all(s is not None and s.shape[1] == 1 for s in sizes)
        return [p for p in parts if p is not None] if single and None not in parts else None
    source: Any = node.args[0] if node.args else None
    index = _second_index(ctx, node)
    whole = value(source)
    if index is None or whole is None or whole.ndim != 3 or not isinstance(whole.shape[1], int):
        return None
    return [Field(source, int(i) % whole.shape[1]) for i in index]


def _second_index(ctx: PassContext, node: fx.Node) -> list[int] | None:
    """The constant positions that a node takes from its input's second dimension."""
    read: Any = None
    if node.target is _aten.index_select.default and node.args[1] in (1, -2):
        read = node.args[2]
    elif node.target is _aten.index.Tensor:
        indices: Any = node.args[1]
        read = indices[1] if len(indices) == 2 and indices[0] is None else None
    held = ctx.tensor(read)
    if held is None or held.ndim != 1 or held.is_floating_point() or held.dtype is torch.bool:
        return None
    return [int(i) for i in held.tolist()]


def product_pair(node: Any) -> Pair | None:
    """The two factors of an elementwise product of fields; None for another node."""
    if not isinstance(node, fx.Node) or node.target is not _aten.mul.Tensor:
        return None
    a, b = field_of(node.args[0]), field_of(node.args[1])
    left, right = value(node.args[0]), value(node.args[1])
    if a is None or b is None or left is None or right is None or not same_shape(left, right):
        return None
    return a, b


def sums_last(node: Any) -> tuple[fx.Node, bool] | None:
    """(summed tensor, whether the dimension is kept) of a sum over the last dimension alone; None for another node."""
    if not isinstance(node, fx.Node) or node.target is not _aten.sum.dim_IntList or node.kwargs.get("dtype"):
        return None
    source: Any = node.args[0]
    held = value(source)
    dims: Any = node.args[1]
    if held is None or dims is None or [d % held.ndim for d in dims] != [held.ndim - 1]:
        return None
    return source, bool(argument(node, 2, "keepdim", False))


def candidate_orders(pairs: Sequence[Pair]) -> list[list[Field]]:
    """Orders of the fields to try: by position in one tensor, or in the order of their first use in the pairs."""
    named = list(dict.fromkeys(chain.from_iterable(pairs)))
    if len({f.node for f in named}) == 1 and all(f.index >= 0 for f in named):
        return [sorted(named, key=lambda f: f.index)]
    swapped = list(dict.fromkeys(chain.from_iterable((b, a) for a, b in pairs)))
    return [named, swapped]


def gather_fields(ctx: PassContext, fields: Sequence[Field]) -> fx.Node:
    """The tensor [B, F, D] of the fields in this order; their source itself if they are all its fields in order."""
    base = fields[0].node
    if all(f.node is base and f.index == i for i, f in enumerate(fields)):
        held = tensor_of(base)
        if held.shape[1] == len(fields):
            return base
    if len({f.node for f in fields}) == 1:
        index = torch.tensor([f.index for f in fields])
        return ctx.call(_aten.index_select.default, base, 1, ctx.constant("interaction_fields", index))
    return ctx.call(_aten.cat.default, [_as_rows(ctx, f) for f in fields], 1)


def _as_rows(ctx: PassContext, field: Field) -> fx.Node:
    """A field as [B, 1, D]."""
    if field.index >= 0:
        return ctx.call(_aten.slice.Tensor, field.node, 1, field.index, field.index + 1)
    held = tensor_of(field.node)
    return field.node if held.ndim == 3 else ctx.call(_aten.unsqueeze.default, field.node, 1)
