"""form-bags: an embedding that is summed or averaged over its bag becomes a lookup that pools.

    sum(embedding(W, i), -2)                    -> grouped_lookup(sum)
    mean(embedding(W, i), -2)                   -> grouped_lookup(mean)
    sum(embedding(W, i) * unsqueeze(m, -1), -2) -> grouped_lookup(sum, weights=m)
    sum(embedding(W, i) * unsqueeze(i != 0, -1), -2) -> grouped_lookup(sum, padding=0)
    sum(masked_fill(embedding(W, i), unsqueeze(i == 0, -1), 0), -2) -> the same

The rows are then not written to memory. The division of a masked mean stays, also with a constant in its denominator.

Requires: functional. Exactness: REASSOC.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import BROADCASTS, CASTS, POOLINGS
from recfx.ir.program import Program
from recfx.ops.lookup import MEAN, SUM, Feature, encode, grouped_lookup
from recfx.passes._match import argument, is_bool, only_user, same_shape, value, without_negations
from recfx.passes._properties import CANONICAL
from recfx.passes.lookups.lookup import bad_ids, bad_table
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class _Mask:
    """The factor of each id: an element of `weights`; without weights, 0 for the id `padding` and 1 for others."""

    weights: fx.Node | None = None
    padding: int = -1


@register
class FormBags(Pass):
    """Turns an embedding and its pooling into a lookup that pools."""

    spec = PassSpec(
        "form-bags",
        "Turns an embedding and its pooling into a lookup that pools.",
        exactness=Exactness.REASSOC,
        prefers=CANONICAL,
        forbids=frozenset({"tables-quantised"}),
        invalidates=frozenset({"lookups-fused"}),
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        apply_rules([("pooled-embedding", POOLINGS, _pooled)], ctx)


def _pooled(node: fx.Node, ctx: PassContext) -> Any:
    rows: Any = node.args[0]
    factor, inverted = None, False
    if rows.target is _aten.mul.Tensor:
        left, right = rows.args[:2]
        swapped = not isinstance(left, fx.Node) or left.target is not _aten.embedding.default
        embedding, factor = (right, left) if swapped else (left, right)
    elif rows.target is _aten.masked_fill.Scalar and rows.args[2] == 0:
        embedding, factor, inverted = rows.args[0], rows.args[1], True
    else:
        embedding = rows
    if not isinstance(embedding, fx.Node) or embedding.target is not _aten.embedding.default:
        return None
    table, ids = embedding.args[:2]
    if refused := bad_table(ctx, table) or bad_ids(ids) or _bad_pooling(node, embedding, rows):
        return refused
    mask: Any = _Mask() if factor is None else _mask(ctx, factor, inverted, table, ids, rows)
    if isinstance(mask, Miss):
        return mask
    if node.target is _aten.mean.dim and factor is not None:
        return Miss("a mean of masked rows divides by the whole length")
    return _bag(ctx, node, table, ids, mask)


def _bad_pooling(node: fx.Node, embedding: fx.Node, rows: fx.Node) -> Miss | None:
    """Why the summed rows are not the bags of one lookup; None if they are."""
    held, ids = tensor_of(embedding), tensor_of(embedding.args[1])
    dims: Any = argument(node, 1, "dim") or []
    if node.kwargs.get("dtype") is not None:
        return Miss("it sums in another dtype")
    if [d % held.ndim for d in dims] != [held.ndim - 2]:
        return Miss("it does not sum over the last dimension of the ids")
    if ids.ndim < 2:
        return Miss("it sums over the batch")
    if ids.ndim > 3 or not all(isinstance(s, int) and s for s in ids.shape[1:]):
        return Miss("the length of the bags varies, or there are too many dimensions")
    if only_user(rows) is None or only_user(embedding) is None:
        return Miss("the rows are read elsewhere as well", embedding)
    after = value(rows)
    return None if after is not None and same_shape(after, held) else Miss("the factor makes the rows larger", rows)


def _mask(ctx: PassContext, factor: Any, inverted: bool, table: Any, ids: Any, rows: fx.Node) -> _Mask | Miss:
    """The mask of the ids from a factor of the rows that has one number for each id."""
    factor, negated = without_negations(factor)
    inverted ^= negated
    mask = _per_id(factor, ids)
    if mask is None:
        return Miss("the factor is not one number for each id", rows)
    while mask.target in CASTS and is_bool(mask.args[0]):
        mask = mask.args[0]
    mask, negated = without_negations(mask)
    inverted ^= negated
    padding = _padding(mask, inverted, ids)
    if padding is not None:
        weight = ctx.stored(table)
        if not 0 <= padding < weight.shape[0]:
            return Miss("the padding is not a row of the table")
        if not bool(weight[padding].isfinite().all()):
            return Miss("the padding's row is not finite, and zero times it is not zero")
        return _Mask(padding=padding)
    held = tensor_of(mask)
    if inverted:
        mask = ctx.call(_aten.logical_not.default, mask)
    elif held.dtype is torch.float32:
        return _Mask(mask)
    elif held.dtype not in (torch.bool, torch.int32, torch.int64):
        return Miss("the factor is not float32, bool or an integer", rows)
    return _Mask(ctx.call(_aten.to.dtype, mask, torch.float32))


def _per_id(factor: Any, ids: Any) -> Any:
    """The tensor of the ids' shape whose elements multiply the rows; None for a factor of another form."""
    held, wanted = value(factor), value(ids)
    if held is None or wanted is None:
        return None
    if same_shape(held, wanted):
        return None  # it would run along the columns
    while factor.target in CASTS and is_bool(factor.args[0]):
        factor = factor.args[0]
    while factor.target in BROADCASTS:
        factor = factor.args[0]
    if factor.target is not _aten.unsqueeze.default or factor.args[1] not in (-1, wanted.ndim):
        return None
    inner = factor.args[0]
    shape = value(inner)
    return inner if shape is not None and same_shape(shape, wanted) else None


def _padding(mask: fx.Node, inverted: bool, ids: fx.Node) -> int | None:
    """The id that a mask excludes, `ids != c`, `ids > 0` or the negation of `ids == c`; None for another mask."""
    if mask.args[:1] != (ids,) or len(mask.args) < 2:
        return None
    other: Any = mask.args[1]
    if not isinstance(other, int) or isinstance(other, bool):
        return None
    if mask.target is (_aten.eq.Scalar if inverted else _aten.ne.Scalar):
        return other
    if mask.target is (_aten.le.Scalar if inverted else _aten.gt.Scalar) and other == 0:
        return 0  # negative ids are refused
    return None


def _bag(ctx: PassContext, node: fx.Node, table: Any, ids: Any, mask: _Mask) -> fx.Node:
    """The grouped lookup of one table: a feature for each bag of a row."""
    shape, width = tensor_of(ids), tensor_of(table)
    bags = 1 if shape.ndim == 2 else int(shape.shape[1])
    length, dim = int(shape.shape[-1]), int(width.shape[1])
    like = Feature(
        0,
        0,
        dim,
        0,
        length=length,
        weights=-1 if mask.weights is None else 0,
        pooling=MEAN if node.target is _aten.mean.dim else SUM,
        padding=mask.padding,
    )
    features = [dataclasses.replace(like, column=b * length, output=b * dim) for b in range(bags)]
    weights = mask.weights
    if bags > 1 or shape.ndim == 3:
        ids = ctx.call(_aten.reshape.default, ids, [-1, bags * length])
        weights = weights if weights is None else ctx.call(_aten.reshape.default, weights, [-1, bags * length])
    given = [] if weights is None else [weights]
    pooled = ctx.call(grouped_lookup, [table], [ids], [], given, [], encode(features), [], bags * dim)
    held = tensor_of(node)
    return pooled if held.ndim == 2 else ctx.call(_aten.reshape.default, pooled, [-1, *held.shape[1:]])
