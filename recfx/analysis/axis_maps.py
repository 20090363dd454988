"""Axis maps of operators: the places of an operand that one place along an axis of the result reads.

A place is an index along an axis. `axis_of(node, operand, axis)` returns, for one axis of the result:

    Along(a)      place i reads only place i of axis a of the operand, and all places are treated alike
    WHOLE         every place reads the same elements of the operand
    MIXED         a place reads several places, or places are treated differently
    None          the table does not contain the operator

Passes that run an operator on some places only (one row per request, one position of a sequence, a part of a concatenation) rely on this
table. It only describes the elements that are read; a caller adds its own conditions, for instance that a weight is not cut. For an
operator with several results it describes the first one. It describes attention without the causal mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.analysis import axis_rules
from recfx.analysis.axis_rules import MIXED, WHOLE, Along, Axis, Role, Rule, expression, reshaped_axis
from recfx.analysis.batch_axis import held_by
from recfx.ir.op_sets import ADDED_PRODUCTS, MATRIX_PRODUCTS, PERMUTATIONS, RESHAPES, SPLITS, SQUEEZES

__all__ = ["MIXED", "WHOLE", "Along", "axis_of", "expression", "is_pointwise", "overloads", "reshaped_axis"]

_aten = torch.ops.aten


def axis_of(node: fx.Node, operand: fx.Node, axis: int) -> Axis | None:
    """The places of an operand that one place along an axis of a node's result reads.

    Args:
        node: An operator.
        operand: One of its inputs.
        axis: An axis of the result, from 0.

    Returns:
        The axis map. If the operand is used at several argument positions with different maps, it is MIXED. None for an unknown operator.
    """
    rule = _RULES.get(node.target, axis_rules.broadcast if is_pointwise(node) else None)
    held = held_by(operand)
    if rule is None or not isinstance(held, torch.Tensor):
        return WHOLE if rule is not None and isinstance(held, torch.SymInt | int) else None
    found = {rule(node, role, held, axis) for role in _roles(node, operand)}
    return found.pop() if len(found) == 1 else MIXED


def is_pointwise(node: fx.Node) -> bool:
    """Whether torch tags an operator as pointwise: each element depends on the elements at the same place."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def _roles(node: fx.Node, operand: fx.Node) -> list[Role]:
    """The argument positions of an operand; keyword arguments count as broadcast operands at position -1."""
    roles = []
    for position, given in enumerate((*node.args, list(node.kwargs.values()))):
        position = position if position < len(node.args) else -1
        items = given if isinstance(given, list | tuple) else [given]
        roles += [(position, index) for index, item in enumerate(items) if item is operand]
    return roles or [(-1, 0)]  # nested deeper, such as in a slice of an index


def overloads(names: str) -> list[Any]:
    """The ATen overloads of a list of names: `"add.Tensor relu"` gives `aten.add.Tensor` and `aten.relu.default`."""
    return [
        getattr(getattr(_aten, name.partition(".")[0]), name.partition(".")[2] or "default") for name in names.split()
    ]


_TABLE: dict[str, Rule] = {
    "to.dtype to.device to.dtype_layout _to_copy type_as contiguous clone alias detach lift_fresh_copy": axis_rules.broadcast,
    "__and__.Tensor __or__.Tensor __xor__.Tensor masked_fill.Scalar masked_fill.Tensor "
    "where.Scalar where.ScalarOther where.ScalarSelf": axis_rules.broadcast,
    "zeros_like ones_like full_like log_sigmoid expand expand_as": axis_rules.broadcast,
    "repeat": axis_rules.repeat,
    "unsqueeze": axis_rules.unsqueeze,
    "unflatten.int": axis_rules.reshape,
    "sum.dim_IntList mean.dim amax amin max.dim min.dim prod.dim_int any.dim all.dim argmax argmin": axis_rules.along(
        1
    ),
    "var.correction std.correction logsumexp softmax.int log_softmax.int _softmax cumsum cumprod flip": axis_rules.along(
        1
    ),
    "slice.Tensor narrow": axis_rules.along(1, default=0),
    "sort glu argsort": axis_rules.along(1, default=-1),
    "cat": axis_rules.along(1, default=0),
    "topk": axis_rules.along(2, default=-1),
    "linalg_vector_norm norm.ScalarOpt_dim": axis_rules.along(2),
    "roll": axis_rules.along(2, "dims"),
    "select.int": axis_rules.dropped(None),
    "unbind.int": axis_rules.dropped(0),
    "view.dtype": axis_rules.reinterpreted,
    "stack": axis_rules.stack,
    "layer_norm rms_norm": axis_rules.norm,
    "prelu batch_norm": axis_rules.channels,
    "dropout feature_dropout alpha_dropout feature_alpha_dropout": axis_rules.first_only,
    "linear": axis_rules.linear,
    "scaled_dot_product_attention": axis_rules.attention,
    "embedding": axis_rules.embedding,
    "one_hot": axis_rules.one_hot,
    "gather": axis_rules.gather,
    "index.Tensor": axis_rules.index,
    "index_select": axis_rules.index_select,
    "einsum": axis_rules.einsum,
    "gru.input lstm.input": axis_rules.recurrent,
    "full zeros ones new_full new_zeros new_ones": lambda node, role, held, axis: WHOLE,
}
_RULES: dict[Any, Rule] = {
    **{target: rule for names, rule in _TABLE.items() for target in overloads(names)},
    **dict.fromkeys(RESHAPES, axis_rules.reshape),
    **dict.fromkeys(SQUEEZES, axis_rules.squeeze),
    **dict.fromkeys(PERMUTATIONS, axis_rules.permute),
    **dict.fromkeys(SPLITS, axis_rules.along(2, default=0)),
    **dict.fromkeys((*MATRIX_PRODUCTS, *ADDED_PRODUCTS), axis_rules.matmul),
}
