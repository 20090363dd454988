"""Moves a selection along one dimension before an operator: op(x)[.., i, ..] -> op'(x[.., i, ..]).

This is possible if each position along that dimension reads only its own positions of the operands, or whole operands: row-wise operators,
the rows of a matrix product, the queries of an attention. `recfx.analysis.axis_maps` has the table of these operators. This file lists
those for which the move saves time, and adds conditions: weights and columns of products are not cut.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.analysis.axis_maps import expression, is_pointwise
from recfx.ir.op_sets import (
    BITWISE_ANDS,
    BITWISE_ORS,
    JOINS,
    MASKED_FILLS,
    POOLINGS,
    ROW_LOOKUPS,
)
from recfx.passes._match import argument, is_eval_dropout, value
from recfx.passes.narrow import narrowing_views
from recfx.passes.narrow.selection import (
    CausalRows,
    Cut,
    Step,
    is_one,
    narrowed_operands,
    out_of,
)

_aten = torch.ops.aten


def sink(node: fx.Node, place: Cut, *, last: bool = False) -> Step | None:
    """The narrowed form of an operator; None if the selection does not commute with it.

    Args:
        node: The operator.
        place: The selection from its result.
        last: Whether the last position is selected, in every row.
    """
    if place.lift or node.op != "call_function":
        return None
    if node.target is _aten.scaled_dot_product_attention.default:
        return _attention(node, place, last)
    rule = _RULES.get(node.target)
    if rule is not None:
        return rule(node, place)
    listed = node.target in _HEAVY or node.target in _VIEWS or node.target in _LIGHT
    if not (listed or is_pointwise(node) or is_eval_dropout(node)):
        return None
    condition = _CONDITIONS.get(node.target)
    if condition is not None and not condition(node, place):
        return None
    operands = narrowed_operands(node, place, node.args)
    if operands is None:
        return None
    return Step(node.target, operands, dict(node.kwargs), heavy=node.target in _HEAVY, view=node.target in _VIEWS)


def _attention(node: fx.Node, place: Cut, last: bool) -> Step | None:
    out = out_of(node)
    query, key = value(node.args[0]), value(node.args[1])
    if query is None or key is None or query.ndim != out.ndim or place.dim == out.ndim - 1:
        return None
    if place.row is not None and place.row >= out.ndim - 2:
        return None
    mask, causal = argument(node, 3, "attn_mask"), argument(node, 5, "is_causal", False)
    operands = narrowed_operands(node, place, (*node.args[:3], mask))
    if operands is None:
        return None
    rest = {**node.kwargs, "dropout_p": argument(node, 4, "dropout_p", 0.0), "is_causal": causal}
    new_mask: Any = operands[3]
    if causal and place.dim == out.ndim - 2:
        length = query.shape[-2]
        if not isinstance(length, int) or expression(key.shape[-2]) != length:
            return None
        lifted = dataclasses.replace(place, lift=out.ndim)
        new_mask, rest["is_causal"] = None if last else CausalRows(length, lifted), False
    return Step(node.target, operands[:3], {**rest, "attn_mask": new_mask}, heavy=True)


def _within(trailing: Callable[[fx.Node], int]) -> Callable[[fx.Node, Cut], bool]:
    """A condition for operators that compute along the last `trailing(node)` dimensions of their result."""
    return lambda node, place: max(place.dim, place.row or 0) < out_of(node).ndim - trailing(node)


def _keeps_slopes(node: fx.Node, place: Cut) -> bool:
    weight = value(node.args[1])
    return weight is not None and (place.dim != 1 or is_one(weight.numel()))


def _is_of_matrices(node: fx.Node, place: Cut) -> bool:
    ranks = [0 if held is None else held.ndim for held in map(value, node.args[:2])]
    rows = place.row is None or place.row < out_of(node).ndim - 2
    return min(ranks) >= 2 and place.dim != out_of(node).ndim - 1 and rows


def _is_of_ids(position: int) -> Callable[[fx.Node, Cut], bool]:
    """A condition for lookups of rows: the selection cuts the ids."""

    def condition(node: fx.Node, place: Cut) -> bool:
        ids: Any = node.args[position]
        ids = ids[0] if isinstance(ids, list | tuple) and len(ids) == 1 else ids
        held = value(ids)
        return held is not None and held.dtype is not torch.bool and max(place.dim, place.row or 0) < held.ndim

    return condition


def _drops(node: fx.Node, place: Cut) -> bool:
    source = value(node.args[0])
    return source is not None and source.ndim != out_of(node).ndim


_RULES: dict[Any, Callable[[fx.Node, Cut], Step | None]] = {
    _aten.reshape.default: narrowing_views.reshape,
    _aten.expand.default: narrowing_views.expand,
    operator.getitem: narrowing_views.item,
}

#: Operators that compute or read so much that narrowing saves time.
_HEAVY = frozenset(
    (
        *(
            _aten.linear.default,
            _aten.layer_norm.default,
            _aten.matmul.default,
            _aten.bmm.default,
            _aten.baddbmm.default,
        ),
        *(_aten.softmax.int, _aten.log_softmax.int, *POOLINGS, _aten.amax.default, _aten.linalg_vector_norm.default),
        *(*ROW_LOOKUPS, _aten.index.Tensor),
    )
)

#: Operators that cost almost nothing.
_VIEWS = frozenset(
    (
        *(_aten.permute.default, *narrowing_views.SEVERAL, _aten.unsqueeze.default),
        *(_aten.squeeze.dim, _aten.select.int, _aten.slice.Tensor),
    )
)

#: Other operators that treat positions alike; torch tags more of them as pointwise.
_LIGHT = frozenset(
    (
        *(*JOINS, *BITWISE_ANDS, *BITWISE_ORS, *MASKED_FILLS, _aten.prelu.default, _aten.expand_as.default),
        *(_aten.to.dtype, _aten.contiguous.default, _aten.clone.default, _aten.log_sigmoid.default),
        _aten.zeros_like.default,
    )
)

#: Conditions for narrowing an operator, in addition to those on its axes.
_CONDITIONS: dict[Any, Callable[[fx.Node, Cut], bool]] = {
    _aten.linear.default: _within(lambda node: 1),
    _aten.layer_norm.default: _within(lambda node: len(argument(node, 1, "normalized_shape"))),
    **dict.fromkeys((_aten.matmul.default, _aten.bmm.default), _is_of_matrices),
    _aten.baddbmm.default: lambda node, place: place.dim != 2 and (place.row or 0) < 1,
    _aten.prelu.default: _keeps_slopes,
    _aten.embedding.default: _is_of_ids(1),
    _aten.index.Tensor: _is_of_ids(1),
    _aten.index_select.default: lambda node, place: place == Cut(0) and bool(argument(node, 1, "dim") == 0),
    **dict.fromkeys((_aten.squeeze.dim, _aten.select.int), _drops),
}
