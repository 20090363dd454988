"""fold-batchnorm: batch norm in eval mode is an affine map, which a linear next to it takes in.

    batch_norm(linear(x, W, b))          -> linear(x, W', b')     with s = w / sqrt(var + eps):
                                            W' = s W (by rows),  b' = s (b - mean) + beta
    linear(batch_norm(x), W, b)          -> linear(x, W', b')
                                            W' = W s (by columns),  b' = b + W (beta - s mean)

Requires: functional. Exactness: REASSOC (weights are computed in float64 and rounded once).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.passes._batchnorm import stored_affine
from recfx.passes._linear import Linear, call_linear, match_linear
from recfx.passes._match import only_user, value
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten


@register
class FoldBatchnorm(Pass):
    """Folds batch norm into the linear before it or after it."""

    spec = PassSpec(
        "fold-batchnorm",
        "Folds batch norm into the linear before it or after it.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"linears-fused"}),
        forbids=QUANTISED,
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        apply_rules(
            [
                ("after-linear", (_aten.batch_norm.default,), _into_linear_before),
                ("before-linear", (_aten.linear.default,), _into_linear_after),
            ],
            ctx,
        )


@dataclasses.dataclass(frozen=True)
class _Affine:
    """x -> scale x + shift, per channel, in float64."""

    source: fx.Node
    scale: torch.Tensor
    shift: torch.Tensor


def _match_norm(ctx: PassContext, node: Any) -> _Affine | Miss:
    if not isinstance(node, fx.Node) or node.target is not _aten.batch_norm.default:
        return Miss("it is not a batch norm", node if isinstance(node, fx.Node) else None)
    held = value(node)
    if held is None or held.ndim != 2:
        return Miss("its channels are not the last dimension", node)
    found = stored_affine(ctx, node)
    return found if isinstance(found, Miss) else _Affine(argument_of(node, 0, fx.Node), found.scale, found.shift)


def _into_linear_before(node: fx.Node, ctx: PassContext) -> Any:
    norm = _match_norm(ctx, node)
    if isinstance(norm, Miss):
        return norm
    linear = match_linear(ctx, norm.source)
    if isinstance(linear, Miss):
        return linear
    if only_user(linear.node) is not node:
        return Miss("the linear's result is read elsewhere as well", linear.node)
    source: Any = linear.node.args[0]
    weight = linear.weight.double() * norm.scale[:, None]
    return call_linear(ctx, source, linear, weight, linear.bias64 * norm.scale + norm.shift)


def _into_linear_after(node: fx.Node, ctx: PassContext) -> Any:
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.target is not _aten.batch_norm.default:
        return None
    norm = _match_norm(ctx, source)
    if isinstance(norm, Miss):
        return norm
    if any(user.target is not _aten.linear.default or user.args[0] is not source for user in source.users):
        return Miss("the batch norm's result is read by other operators than linears", source)
    linears = [match_linear(ctx, user) for user in source.users]
    if refused := next((found for found in linears if isinstance(found, Miss)), None):
        return refused
    linear = next(found for found in linears if isinstance(found, Linear) and found.node is node)
    weight = linear.weight.double()
    return call_linear(ctx, norm.source, linear, weight * norm.scale, linear.bias64 + weight @ norm.shift)
