"""fold-linear-into-table: a linear over looked-up rows is applied to the table once instead of to every lookup.

    linear(embedding(E, ids), W, b)            -> embedding(E W' + b, ids)
    linear(bag(E, ids, sum or mean), W, b)     -> bag(E W', ids) + b
    linear(embedding(E, ids).sum(1), W, b)     -> embedding(E W', ids).sum(1) + b      likewise mean
    linear(cat([embedding(E, ids), x]), W, b)  -> linear(x, W_x, b) + embedding(E W_e', ids)     only with `concat_bytes`

The bias of a pooled lookup is added after the pooling, so that an empty bag gives the bias, as the linear does.

Requires: functional. Exactness: REASSOC (tables are computed in float64 and rounded once).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import EMBEDDING_BAGS, POOLINGS
from recfx.ir.program import Program
from recfx.passes._linear import read_once, rounded
from recfx.passes._match import argument, only_user, value
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten
_POOLINGS = POOLINGS
_ROWS_AT_ONCE = 1 << 16


@register
@dataclass(frozen=True)
class FoldLinearIntoTable(Pass):
    """Applies linears to tables once instead of to every lookup.

    Attributes:
        max_bytes_growth: The most bytes by which a fold may enlarge the state, so that the new table still fits the cache. The state does
            not grow if the linear has at most as many outputs as the table has columns.
        concat_bytes: A table in a concatenation is split off if its folded form has at most this many bytes. 0 splits off none: unless
            the linear is wide, the further lookup and addition cost about as much as the saved columns.
    """

    spec = PassSpec(
        "fold-linear-into-table",
        "Applies a linear to a table once instead of to every lookup.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"lookups-fused", "linears-fused"}),
        forbids=QUANTISED,
    )

    max_bytes_growth: int = 1 << 18
    concat_bytes: int = 0

    def run(self, program: Program, ctx: PassContext) -> None:
        rules = (("one-hot", _one_hot), ("bag", _bag), ("pooled", _pooled))
        bound = [(name, (_aten.linear.default,), partial(rule, self.max_bytes_growth)) for name, rule in rules]
        if self.concat_bytes:
            bound.append(("concat", (_aten.linear.default,), partial(_concat, self.concat_bytes)))
        apply_rules(bound, ctx)


def _fold(
    ctx: PassContext, table_read: Any, linear: fx.Node, allowed: int, *, bias: bool, columns: slice | None = None
) -> fx.Node | Miss:
    """A read of the folded table, or why the linear is not folded."""
    table, weight = ctx.tensor(table_read), ctx.tensor(linear.args[1])
    shift = ctx.tensor(argument(linear, 2, "bias")) if bias else None
    if table is None or weight is None or (bias and shift is None):
        return Miss("the table, the weight or the bias is computed")
    if table.dtype is not weight.dtype or not table.is_floating_point():
        return Miss("the table and the weight differ in dtype")
    own = [t for t, read in ((table, table_read), (weight, linear.args[1])) if read_once(ctx, read)]
    new_bytes = len(table) * len(weight) * table.element_size()
    growth = new_bytes - sum(t.numel() * t.element_size() for t in own)
    if columns is None and growth > allowed:
        return Miss(f"the state would grow by {growth:,} bytes")
    if columns is not None and new_bytes > allowed:
        return Miss(f"the folded table would have {new_bytes:,} bytes")
    with torch.no_grad():
        factor = (weight if columns is None else weight[:, columns]).double().T
        parts = []
        for rows in torch.split(table, _ROWS_AT_ONCE):
            exact = rows.double() @ factor
            part = rounded(exact if shift is None else exact + shift.double(), table.dtype, like=rows)
            if isinstance(part, Miss):
                return part
            parts.append(part)
    return ctx.constant(f"{table_read.target}_folded", torch.cat(parts) if parts else table.new_empty(0, len(weight)))


def _bias_of(linear: fx.Node) -> fx.Node | None:
    found: fx.Node | None = argument(linear, 2, "bias")
    return found


def _one_hot(allowed: int, node: fx.Node, ctx: PassContext) -> Any:
    lookup: Any = node.args[0]
    if lookup.target is not _aten.embedding.default:
        return None
    if only_user(lookup) is not node:
        return Miss("the looked-up rows are read elsewhere as well", lookup)
    table = _fold(ctx, lookup.args[0], node, allowed, bias=_bias_of(node) is not None)
    return table if isinstance(table, Miss) else ctx.call(lookup.target, table, *lookup.args[1:], **lookup.kwargs)


def _bag(allowed: int, node: fx.Node, ctx: PassContext) -> Any:
    pooled: Any = node.args[0]
    if pooled.target is not operator.getitem or pooled.args[0].target not in EMBEDDING_BAGS:
        return None
    bag = pooled.args[0]
    if argument(bag, 4, "mode", 0) not in (0, 1):
        return Miss("a maximum does not commute with a linear", bag)
    if [user for user in bag.users if user.users] != [pooled] or pooled.args[1] != 0 or only_user(pooled) is not node:
        return Miss("the bag's results are read elsewhere as well", bag)

    def lookup(table: fx.Node) -> fx.Node:
        return ctx.call(operator.getitem, ctx.call(bag.target, table, *bag.args[1:], **bag.kwargs), 0)

    return _behind_pooling(allowed, node, ctx, bag.args[0], lookup)


def _pooled(allowed: int, node: fx.Node, ctx: PassContext) -> Any:
    pooling: Any = node.args[0]
    if pooling.target not in _POOLINGS or pooling.args[0].target is not _aten.embedding.default:
        return None
    lookup: Any = pooling.args[0]
    rows, dims = value(lookup), argument(pooling, 1, "dim")
    if rows is None or not dims or any(d % rows.ndim == rows.ndim - 1 for d in dims):
        return Miss("it pools over columns", pooling)
    if pooling.kwargs.get("dtype") is not None:
        return Miss("it pools in another dtype", pooling)
    if (only_user(lookup), only_user(pooling)) != (pooling, node):
        return Miss("the looked-up rows are read elsewhere as well", lookup)

    def again(table: fx.Node) -> fx.Node:
        found = ctx.call(lookup.target, table, *lookup.args[1:], **lookup.kwargs)
        return ctx.call(pooling.target, found, *pooling.args[1:], **pooling.kwargs)

    return _behind_pooling(allowed, node, ctx, lookup.args[0], again)


def _behind_pooling(
    allowed: int, node: fx.Node, ctx: PassContext, table: Any, lookup: Callable[[fx.Node], fx.Node]
) -> fx.Node | Miss:
    """Folds a linear behind a pooled lookup, unless rows would widen: each result reads many rows, which then cost more than the linear."""
    held, weight, bias = ctx.tensor(table), ctx.tensor(node.args[1]), _bias_of(node)
    if held is not None and weight is not None and len(weight) > held.shape[-1]:
        return Miss(f"each pooled row would widen from {held.shape[-1]} to {len(weight)} columns")
    folded = _fold(ctx, table, node, allowed, bias=False)
    if isinstance(folded, Miss):
        return folded
    pooled = lookup(folded)
    return pooled if bias is None else ctx.call(_aten.add.Tensor, pooled, bias)


def _concat(allowed: int, node: fx.Node, ctx: PassContext) -> Any:
    cat: Any = node.args[0]
    held = value(cat)
    if cat.target is not _aten.cat.default or held is None or argument(cat, 1, "dim", 0) % held.ndim != held.ndim - 1:
        return None
    if only_user(cat) is not node:
        return Miss("the concatenation is read elsewhere as well", cat)
    weight = ctx.tensor(node.args[1])
    if weight is None:
        return Miss("its weight is computed")
    parts: list[Any] = list(cat.args[0])
    kept, kept_columns, rows, start = [], [], [], 0
    for part in parts:
        shown = value(part)
        width = int(shown.shape[-1]) if shown is not None else 0
        columns, start = slice(start, start + width), start + width
        folded: Any = Miss("it is not a lookup that the linear alone reads")
        if part.target is _aten.embedding.default and only_user(part) is cat and parts.count(part) == 1:
            folded = _fold(ctx, part.args[0], node, allowed, bias=False, columns=columns)
        if isinstance(folded, Miss):
            kept.append(part)
            kept_columns.append(weight[:, columns])
        else:
            rows.append(ctx.call(part.target, folded, *part.args[1:], **part.kwargs))
    if not rows or not kept:
        return Miss("no table in it is small enough" if not rows else "all its tables are small", cat)
    name = str(argument_of(node, 1, fx.Node).target)
    rest = kept[0] if len(kept) == 1 else ctx.call(_aten.cat.default, kept, held.ndim - 1)
    bias = _bias_of(node)
    narrow = ctx.constant(f"{name}_rest", torch.cat(kept_columns, 1).detach().contiguous())
    result = ctx.call(_aten.linear.default, rest, narrow, *([] if bias is None else [bias]))
    for row in rows:
        result = ctx.call(_aten.add.Tensor, result, row)
    return result
