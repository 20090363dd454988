"""fold-affine: constant scales and shifts disappear into the weights next to them.

    linear(x, W, b) * c, / c             -> linear(x, W', b')        c a number or one number per channel
    linear(x, W, b) + c, - c             -> linear(x, W, b')
    linear(x * c, W, b)                  -> linear(x, W', b)
    embedding(W, i) * c, / c, + c, - c   -> embedding(W', i)         when W has no other use
    bag(W, i, sum or mean) * c           -> bag(W', i)               likewise
    linear(linear(x, W1, b1), W2, b2)    -> linear(x, W2 W1, ...)    when that takes as many multiplications or fewer

Requires: functional. Exactness: REASSOC (weights are computed in float64 and rounded once).
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import ADDITIONS, EMBEDDING_BAGS, SCALINGS
from recfx.ir.program import Program
from recfx.passes._linear import (
    call_linear,
    channel_constant,
    keeps_shape_and_dtype,
    match_linear,
    read_once,
    rounded,
)
from recfx.passes._match import argument, only_user, value
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten


@register
class FoldAffine(Pass):
    """Folds constant scales and shifts into linears and tables, and linears into each other."""

    spec = PassSpec(
        "fold-affine",
        "Folds constant scales and shifts into linears and tables, and linears into each other.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"lookups-fused", "linears-fused"}),
        forbids=QUANTISED,
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        apply_rules(
            [
                ("after-linear", (*SCALINGS, *ADDITIONS), _into_linear_before),
                ("before-linear", (_aten.linear.default,), _into_linear_after),
                ("into-table", (*SCALINGS, *ADDITIONS), _into_table),
                ("into-bag-table", SCALINGS, _into_bag_table),
                ("linear-of-linear", (_aten.linear.default,), _merge_linears),
            ],
            ctx,
        )


def _scale_and_shift(ctx: PassContext, node: fx.Node) -> tuple[fx.Node, torch.Tensor, torch.Tensor] | Miss:
    """`node` as source * scale + shift along its last dimension, float64 [C] each."""
    source, other = node.args[:2]
    if not isinstance(source, fx.Node) or source.op == "get_attr":
        if node.target in (_aten.div.Tensor, _aten.sub.Tensor):
            return Miss("the constant stands on the left")
        source, other = other, source
    held = value(source)
    if not isinstance(source, fx.Node) or held is None or not held.ndim or not isinstance(held.shape[-1], int):
        return Miss("all its operands are constant, or its last dimension varies")
    if not held.is_floating_point() or not keeps_shape_and_dtype(source, node):
        return Miss("it changes the shape or the dtype")
    if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode") is not None:
        return Miss("it has an alpha or a rounding mode")
    constant = channel_constant(ctx, other, held.shape[-1])
    if constant is None:
        return Miss("the other operand is not a constant along the last dimension")
    ones, zeros = torch.ones_like(constant), torch.zeros_like(constant)
    forms: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {
        _aten.mul.Tensor: (constant, zeros),
        _aten.div.Tensor: (1 / constant, zeros),
        _aten.add.Tensor: (ones, constant),
        _aten.sub.Tensor: (ones, -constant),
    }
    scale, shift = forms[node.target]
    if not bool(scale.isfinite().all()) or not bool(shift.isfinite().all()):
        return Miss("the constant is zero in a division, infinite or NaN")
    return source, scale, shift


def _into_linear_before(node: fx.Node, ctx: PassContext) -> Any:
    affine = _scale_and_shift(ctx, node)
    if isinstance(affine, Miss):
        return affine
    source, scale, shift = affine
    linear = match_linear(ctx, source)
    if isinstance(linear, Miss):
        return linear
    if only_user(linear.node) is not node:
        return Miss("the linear's result is read elsewhere as well", linear.node)
    inner: Any = linear.node.args[0]
    return call_linear(ctx, inner, linear, linear.weight.double() * scale[:, None], linear.bias64 * scale + shift)


def _into_linear_after(node: fx.Node, ctx: PassContext) -> Any:
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.target not in SCALINGS:
        return None
    affine = _scale_and_shift(ctx, before)
    if isinstance(affine, Miss):
        return affine
    if only_user(before) is not node:
        return Miss("the scaled value is read elsewhere as well", before)
    linear = match_linear(ctx, node)
    if isinstance(linear, Miss):
        return linear
    source, scale, _ = affine
    return call_linear(ctx, source, linear, linear.weight.double() * scale, linear.bias64)


def _into_table(node: fx.Node, ctx: PassContext) -> Any:
    affine = _scale_and_shift(ctx, node)
    if isinstance(affine, Miss):
        return affine
    lookup, scale, shift = affine
    if lookup.target is not _aten.embedding.default:
        return None
    if refused := _no_own_table(ctx, lookup, lookup):
        return refused
    table = ctx.stored(lookup.args[0])
    new = rounded(table.detach().double() * scale + shift, table.dtype, like=table)
    if isinstance(new, Miss):
        return new
    name = f"{argument_of(lookup, 0, fx.Node).target}_folded"
    return ctx.call(_aten.embedding.default, ctx.constant(name, new), *lookup.args[1:], **lookup.kwargs)


def _into_bag_table(node: fx.Node, ctx: PassContext) -> Any:
    affine = _scale_and_shift(ctx, node)
    if isinstance(affine, Miss):
        return None
    pooled, scale, _ = affine
    if pooled.target is not operator.getitem or pooled.args[1] != 0:
        return None
    bag: Any = pooled.args[0]
    if bag.target not in EMBEDDING_BAGS:
        return None
    if argument(bag, 4, "mode", 0) not in (0, 1):
        return Miss("a maximum does not commute with a scale", bag)
    if any(user.args[1] != 0 for user in bag.users if user.users):
        return Miss("the bag's other results are read", bag)
    if refused := _no_own_table(ctx, bag, pooled):
        return refused
    table = ctx.stored(bag.args[0])
    new = rounded(table.detach().double() * scale, table.dtype, like=table)
    if isinstance(new, Miss):
        return new
    read = ctx.constant(f"{bag.args[0].target}_folded", new)
    again = ctx.call(bag.target, read, *bag.args[1:], **bag.kwargs)
    return ctx.call(operator.getitem, again, 0)


def _no_own_table(ctx: PassContext, lookup: fx.Node, result: fx.Node) -> Miss | None:
    """Why the table of a lookup must not change; None if it may."""
    if ctx.tensor(lookup.args[0]) is None:
        return Miss("the table is computed", lookup)
    if only_user(result) is None:
        return Miss("the looked-up rows are read elsewhere as well", result)
    if not read_once(ctx, lookup.args[0]):
        return Miss("the table has other uses, and a changed copy would take further memory", lookup)
    return None


def _merge_linears(node: fx.Node, ctx: PassContext) -> Any:
    inner_node = node.args[0]
    if not isinstance(inner_node, fx.Node) or inner_node.target is not _aten.linear.default:
        return None
    inner, outer = match_linear(ctx, inner_node), match_linear(ctx, node)
    if isinstance(inner, Miss):
        return inner
    if isinstance(outer, Miss):
        return outer
    if only_user(inner_node) is not node:
        return Miss("the inner linear's result is read elsewhere as well", inner_node)
    (out, middle), width = outer.weight.shape, inner.weight.shape[1]
    if out * width > middle * (out + width):
        return Miss(f"one {width}→{out} multiplies more than {width}→{middle}→{out}")
    weight = outer.weight.double()
    source: Any = inner_node.args[0]
    return call_linear(ctx, source, outer, weight @ inner.weight.double(), outer.bias64 + weight @ inner.bias64)
