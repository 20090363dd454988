"""How a selection along one dimension sinks through an operator: op(x)[.., i, ..] -> op'(x[.., i, ..]).

An operator lets a selection through when it treats the positions along that dimension alike and apart from each other: row-wise operators,
the rows of a matrix product, the queries of an attention. One rule an operator; each gives the operator to put in its place, with marks on
the inputs that are to be narrowed in turn, and leaves the others whole.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import JOINS, POOLINGS, SIZED_RESHAPES
from recfx.passes._match import argument, is_eval_dropout, value
from recfx.passes.narrow import narrowing_views as _sink_views
from recfx.passes.narrow.selection import (
    CausalRows,
    Narrow,
    Place,
    Step,
    expression,
    is_one,
    moved,
    node_of,
    out_of,
    same_place,
)

_aten = torch.ops.aten


def sink(node: fx.Node, place: Place, *, last: bool = False) -> Step | None:
    """The narrowed form of an operator, or None when the selection does not commute with it.

    Args:
        node: The operator.
        place: Where its result is selected.
        last: Whether it is the last position that is selected, in every row.
    """
    if place.lift or node.op != "call_function":
        return None
    if node.target is _aten.scaled_dot_product_attention.default:
        return _attention(node, place, last)
    rule = _RULES.get(node.target)
    if rule is not None:
        return rule(node, place)
    tagged = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    return _pointwise(node, place) if tagged or is_eval_dropout(node) else None


def _pointwise(node: fx.Node, place: Place) -> Step:
    out = out_of(node)
    return Step(node.target, tuple(same_place(a, out, place) for a in node.args), dict(node.kwargs))


def _prelu(node: fx.Node, place: Place) -> Step | None:
    weight = value(node.args[1])
    if weight is None or (place.dim == 1 and not is_one(weight.numel())):
        return None
    return Step(node.target, (Narrow(node_of(node.args[0]), place), node.args[1]))


def _first(*, trailing: Callable[[fx.Node], int], heavy: bool = True) -> Callable[[fx.Node, Place], Step | None]:
    """A rule for operators that work on the last `trailing(node)` dimensions of their first argument."""

    def rule(node: fx.Node, place: Place) -> Step | None:
        out = out_of(node)
        if max(place.dim, place.row or 0) >= out.ndim - trailing(node):
            return None
        return Step(node.target, (Narrow(node_of(node.args[0]), place), *node.args[1:]), dict(node.kwargs), heavy=heavy)

    return rule


def _softmax(node: fx.Node, place: Place) -> Step | None:
    dim = argument(node, 1, "dim") % out_of(node).ndim
    if dim in (place.dim, place.row):
        return None
    return Step(node.target, (Narrow(node_of(node.args[0]), place), *node.args[1:]), dict(node.kwargs), heavy=True)


def _reduction(dims_at: int) -> Callable[[fx.Node, Place], Step | None]:
    def rule(node: fx.Node, place: Place) -> Step | None:
        source = value(node.args[0])
        dims = argument(node, dims_at, "dim")
        if source is None or not isinstance(dims, list | tuple) or not dims:
            return None
        reduced = {d % source.ndim for d in dims}
        kept = list(range(source.ndim)) if argument(node, dims_at + 1, "keepdim", False) else []
        kept = kept or [d for d in range(source.ndim) if d not in reduced]
        mark = moved(node.args[0], place, kept.__getitem__)
        if {mark.place.dim, mark.place.row} & reduced:
            return None
        return Step(node.target, (mark, *node.args[1:]), dict(node.kwargs), heavy=True)

    return rule


def _matmul(node: fx.Node, place: Place) -> Step | None:
    out, (left, right) = out_of(node), map(value, node.args[:2])
    if left is None or right is None or min(left.ndim, right.ndim) < 2:
        return None
    if place.dim == out.ndim - 1 or (place.row is not None and place.row >= out.ndim - 2):
        return None
    new_right = node.args[1] if place.dim == out.ndim - 2 else same_place(node.args[1], out, place)
    return Step(node.target, (same_place(node.args[0], out, place), new_right), heavy=True)


def _baddbmm(node: fx.Node, place: Place) -> Step | None:
    out = out_of(node)
    if place.dim == 2 or (place.row or 0) >= 1:
        return None
    new_right = node.args[2] if place.dim == 1 else same_place(node.args[2], out, place)
    marks = (same_place(node.args[0], out, place), same_place(node.args[1], out, place), new_right)
    return Step(node.target, marks, dict(node.kwargs), heavy=True)


def _attention(node: fx.Node, place: Place, last: bool) -> Step | None:
    out = out_of(node)
    query, key = value(node.args[0]), value(node.args[1])
    if query is None or key is None or query.ndim != out.ndim or place.dim == out.ndim - 1:
        return None
    if place.row is not None and place.row >= out.ndim - 2:
        return None
    mask, causal = argument(node, 3, "attn_mask"), argument(node, 5, "is_causal", False)
    rest = {**node.kwargs, "dropout_p": argument(node, 4, "dropout_p", 0.0), "is_causal": causal}
    if place.dim < out.ndim - 2:
        marks = [same_place(a, out, place) for a in (*node.args[:3], mask)]
        return Step(node.target, tuple(marks[:3]), {**rest, "attn_mask": marks[3]}, heavy=True)
    new_mask = same_place(mask, out, place)
    if causal:
        length = query.shape[-2]
        if not isinstance(length, int) or expression(key.shape[-2]) != length:
            return None
        lifted = dataclasses.replace(place, lift=out.ndim)
        new_mask, rest["is_causal"] = None if last else CausalRows(length, lifted), False
    marks = [same_place(node.args[0], out, place), *node.args[1:3]]
    return Step(node.target, tuple(marks), {**rest, "attn_mask": new_mask}, heavy=True)


def _lookup(ids_at: Callable[[fx.Node], Any]) -> Callable[[fx.Node, Place], Step | None]:
    def rule(node: fx.Node, place: Place) -> Step | None:
        ids = ids_at(node)
        held, table = value(ids), node.args[0]
        if held is None or held.dtype is torch.bool or max(place.dim, place.row or 0) >= held.ndim:
            return None
        mark: Any = Narrow(ids, place)
        new = mark if node.target is _aten.embedding.default else [mark]
        return Step(node.target, (table, new, *node.args[2:]), dict(node.kwargs), heavy=True)

    return rule


def _index_select(node: fx.Node, place: Place) -> Step | None:
    """Rows of state by one id a row."""
    table, dim, ids = node.args
    if dim != 0 or place != Place(0) or not isinstance(ids, fx.Node):
        return None
    return Step(node.target, (table, dim, Narrow(ids, place)), dict(node.kwargs), heavy=True)


def _single_index(node: fx.Node) -> Any:
    indices: Any = node.args[1]
    return indices[0] if len(indices) == 1 else None


_RULES: dict[Any, Callable[[fx.Node, Place], Step | None]] = {
    **_sink_views.SEVERAL,
    **dict.fromkeys((_aten.__and__.Tensor, _aten.__or__.Tensor, _aten.masked_fill.Tensor), _pointwise),
    **dict.fromkeys((_aten.to.dtype, _aten.contiguous.default, _aten.clone.default), _pointwise),
    **dict.fromkeys((_aten.expand_as.default, _aten.log_sigmoid.default, _aten.zeros_like.default), _pointwise),
    **dict.fromkeys(SIZED_RESHAPES, _sink_views.reshape),
    **dict.fromkeys((_aten.flatten.using_ints, _aten.unflatten.int), _sink_views.reshape),
    **dict.fromkeys((_aten.softmax.int, _aten.log_softmax.int), _softmax),
    **dict.fromkeys((*POOLINGS, _aten.amax.default), _reduction(1)),
    **dict.fromkeys((_aten.matmul.default, _aten.bmm.default), _matmul),
    **dict.fromkeys(JOINS, _sink_views.joining),
    **dict.fromkeys((_aten.squeeze.dim, _aten.select.int), _sink_views.dropping),
    _aten.linalg_vector_norm.default: _reduction(2),
    _aten.linear.default: _first(trailing=lambda node: 1),
    _aten.layer_norm.default: _first(trailing=lambda node: len(argument(node, 1, "normalized_shape"))),
    _aten.baddbmm.default: _baddbmm,
    _aten.prelu.default: _prelu,
    _aten.transpose.int: _sink_views.transpose,
    _aten.permute.default: _sink_views.permute,
    _aten.unsqueeze.default: _sink_views.unsqueeze,
    _aten.slice.Tensor: _sink_views.slice,
    _aten.expand.default: _sink_views.expand,
    _aten.embedding.default: _lookup(lambda node: node.args[1]),
    _aten.index.Tensor: _lookup(_single_index),
    _aten.index_select.default: _index_select,
    operator.getitem: _sink_views.item,
}
