"""Predicates and accessors of nodes that several passes use."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.analysis.axis_rules import order_of
from recfx.ir.op_sets import CONJUGATE_TRANSPOSES, DROPOUTS, NEGATIONS, PERMUTATIONS
from recfx.ir.sizes import same_sizes

_aten = torch.ops.aten

#: Operators with a random result at every call; they are neither folded nor merged.
_RANDOM_TAG = torch.Tag.nondeterministic_seeded


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """An argument by position or, failing that, by keyword."""
    return node.args[index] if index < len(node.args) else node.kwargs.get(name, default)


def value(node: Any) -> torch.Tensor | None:
    """The fake tensor of a node with a tensor result; None for anything else."""
    held = node.meta.get("val") if isinstance(node, fx.Node) else None
    return held if isinstance(held, torch.Tensor) else None


def permutation(node: Any) -> list[int] | None:
    """The order of a permutation, as `permute` takes it, from any spelling; None for any other node."""
    held = value(node)
    if held is None or node.target not in PERMUTATIONS or (held.is_complex() and node.target in CONJUGATE_TRANSPOSES):
        return None
    return order_of(node, held.ndim)


def turned(node: Any) -> fx.Node | None:
    """The operand of a transposition of matrices; None for any other node."""
    order = permutation(node)
    if order is None or len(order) < 2:
        return None
    rank = len(order)
    return node.args[0] if order == [*range(rank - 2), rank - 1, rank - 2] else None


def same_shape(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two fake tensors have the same sizes, as expressions."""
    return same_sizes(a.shape, b.shape)


def same_layout(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two fake tensors agree in dtype, device, sizes and strides."""
    return (
        a.dtype is b.dtype
        and a.device == b.device
        and a.layout is b.layout
        and same_shape(a, b)
        and (a.layout is not torch.strided or same_sizes(a.stride(), b.stride()))
    )


def is_random(node: fx.Node) -> bool:
    """Whether a node's result differs from call to call."""
    return (
        isinstance(node.target, torch._ops.OpOverload) and _RANDOM_TAG in node.target.tags and not is_eval_dropout(node)
    )


def is_eval_dropout(node: fx.Node) -> bool:
    """Whether a node is a dropout that drops nothing."""
    dropouts = (*DROPOUTS, _aten.native_dropout.default)
    return node.target in dropouts and (argument(node, 2, "train") is False or argument(node, 1, "p") == 0.0)


def only_user(node: fx.Node) -> fx.Node | None:
    """The single user of a node; None when there are several or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_bool(node: Any) -> bool:
    """Whether a node gives a bool tensor."""
    held = value(node)
    return held is not None and held.dtype is torch.bool


def without_negations(node: Any) -> tuple[Any, bool]:
    """The bool tensor behind negations, and whether the node is its negation. `logical_not` of numbers stays."""
    negated = False
    while isinstance(node, fx.Node) and node.target in NEGATIONS and is_bool(node.args[0]):
        node, negated = node.args[0], not negated
    return node, negated
