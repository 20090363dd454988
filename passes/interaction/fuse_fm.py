"""fuse-fm: the factorisation machine's second-order term becomes one operator.

    0.5 * (sum_f(x)^2 - sum_f(x^2))             -> recfx.fm(x)      squares as pow, square or x * x; * 0.5 or / 2
    the same, summed over the dimensions        -> recfx.fm(x)      the sum before or after the half, kept dimensions or not
    x_1 * x_2 + x_1 * x_3 + ... over all pairs  -> recfx.fm(x)      of products, or of products summed over the dimensions

Requires: functional. Exactness: REASSOC (the sums may be taken in another order).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import SCALINGS
from recfx.ir.program import Program
from recfx.ops import interaction
from recfx.passes._match import argument, only_user, same_shape, value
from recfx.passes._properties import CANONICAL
from recfx.passes.interaction.fields import Pair, candidate_orders, gather_fields, product_pair, sums_last
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten


@register
class FuseFm(Pass):
    """Recognises the second-order term of a factorisation machine."""

    spec = PassSpec(
        "fuse-fm",
        "Fuses the factorisation machine's second-order term into one operator.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"lookups-fused"}),
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        apply_rules(
            [
                ("squares", (*SCALINGS, _aten.sum.dim_IntList), _squares),
                ("pairs", (_aten.add.Tensor,), _pairs),
            ],
            ctx,
        )


@dataclass(frozen=True)
class _Sum:
    """sum over the fields of x or of x^2."""

    x: fx.Node
    keeps: bool


def _squares(node: fx.Node, ctx: PassContext) -> Any:
    """0.5 * (square of sum - sum of squares), perhaps summed over the dimensions, before or after."""
    inner, halved, reduced = node, False, False
    for _ in range(2):
        if (source := _half_of(inner)) is not None and not halved:
            inner, halved = source, True
        elif (source := _dimensions_summed(inner)) is not None and not reduced:
            inner, reduced = source, True
        else:
            break
    if inner is node or inner.target is not _aten.sub.Tensor:
        return None
    x = _difference(inner)
    if x is None or isinstance(x, Miss):
        return x
    if not halved:
        following = only_user(node)
        complete = following is not None and _half_of(following) is node
        return None if complete else Miss("the difference is not halved", node)
    following = only_user(node)
    if not reduced and following is not None and _dimensions_summed(following) is node:
        return None  # the rule rewrites the sum
    return _shaped(ctx, ctx.call(interaction.fm, x, reduced), node)


def _half_of(node: Any) -> fx.Node | None:
    """The operand of a multiplication by 0.5 or a division by 2; None for another node."""
    if not isinstance(node, fx.Node) or node.kwargs:
        return None
    if node.target is _aten.mul.Tensor:
        for source, factor in (node.args[:2], node.args[1::-1]):
            if isinstance(source, fx.Node) and not isinstance(factor, fx.Node) and factor == 0.5:
                return source
    if node.target is _aten.div.Tensor and node.args[1] == 2 and isinstance(node.args[0], fx.Node):
        return node.args[0]
    return None


def _dimensions_summed(node: Any) -> fx.Node | None:
    """The operand of a sum over the last dimension, and perhaps over a field dimension of size 1; None for another node."""
    if not isinstance(node, fx.Node) or node.target is not _aten.sum.dim_IntList or node.kwargs.get("dtype"):
        return None
    source = argument_of(node, 0, fx.Node)
    held = value(source)
    dims: Any = node.args[1]
    if held is None or not dims or held.ndim not in (2, 3):
        return None
    summed = {d % held.ndim for d in dims}
    if held.ndim - 1 not in summed or 0 in summed or (1 in summed and held.ndim == 3 and held.shape[1] != 1):
        return None
    return source


def _difference(node: fx.Node) -> fx.Node | Miss | None:
    """x of sum(x)^2 - sum(x^2)."""
    total, squares = _square_of(node.args[0]), _field_sum(node.args[1])
    first = None if total is None else _field_sum(total)
    if first is None or squares is None or node.kwargs.get("alpha", 1) != 1:
        return None
    squared = _square_of(squares.x)
    if squared is None:
        return None
    if squared is not first.x:
        return Miss("the sum and the sum of squares are of different tensors", node)
    held = value(first.x)
    if first.keeps != squares.keeps or held is None or held.dtype is not torch.float32:
        return Miss("the sums have different shapes, or are not float32", node)
    if not isinstance(held.shape[2], int):
        return Miss("the vectors' width varies", first.x)
    return first.x


def _square_of(node: Any) -> fx.Node | None:
    """The operand of a square, also written x * x; None for another node."""
    if not isinstance(node, fx.Node):
        return None
    product = node.target is _aten.mul.Tensor and node.args[0] is node.args[1]
    squared = product or node.target is _aten.square.default
    return argument_of(node, 0, fx.Node) if squared else None


def _field_sum(node: Any) -> _Sum | None:
    """The sum over the second of three dimensions at a node; None for another node."""
    if not isinstance(node, fx.Node) or node.target is not _aten.sum.dim_IntList or node.kwargs.get("dtype"):
        return None
    source: Any = node.args[0]
    held = value(source)
    dims: Any = node.args[1]
    if held is None or held.ndim != 3 or not dims or [d % 3 for d in dims] != [1]:
        return None
    return _Sum(source, bool(argument(node, 2, "keepdim", False)))


def _shaped(ctx: PassContext, term: fx.Node, like: fx.Node) -> fx.Node | Miss:
    """The term, [B, 1] or [B, D], in the shape of the node that it replaces."""
    b = tensor_of(like)
    if b.ndim == 1:
        return ctx.call(_aten.squeeze.dim, term, 1)
    return term if b.ndim == 2 else ctx.call(_aten.unsqueeze.default, term, 1)


def _pairs(node: fx.Node, ctx: PassContext) -> Any:
    """The sum of the products of all pairs, written out."""
    following = only_user(node)
    if following is not None and following.target is _aten.add.Tensor and _leaves(following) is not None:
        return None  # a part of a larger sum of products
    leaves = _leaves(node)
    if leaves is None or len(leaves) < 3:
        return None
    found = [(pair, summed) for pair, summed in map(_pair, leaves) if pair is not None]
    if len(found) != len(leaves):
        return None
    pairs = [pair for pair, _ in found]
    fields = candidate_orders(pairs)[0]
    wanted = {frozenset((a, b)) for i, a in enumerate(fields) for b in fields[:i]}
    if {frozenset(pair) for pair in pairs} != wanted or len(pairs) != len(wanted):
        return Miss("the products are not all pairs of some vectors, each once", node)
    if len({summed for _, summed in found}) != 1 or len({tensor_of(f.node).shape[-1] for f in fields}) != 1:
        return Miss("some products are summed over the dimensions, others are not, or the widths differ", node)
    return _shaped(ctx, ctx.call(interaction.fm, gather_fields(ctx, fields), bool(found[0][1])), node)


def _pair(leaf: Any) -> tuple[Pair | None, bool]:
    """(the fields of a product, whether it is summed over the dimensions)."""
    summed = sums_last(leaf)
    return product_pair(leaf if summed is None else summed[0]), summed is not None


def _leaves(node: fx.Node) -> list[fx.Node] | None:
    """The products that a tree of additions sums, all of one shape and without other users; None if it sums other values."""
    leaves: list[fx.Node] = []
    pending: list[Any] = [node]
    while pending:
        part = pending.pop()
        if not isinstance(part, fx.Node):
            if part != 0:
                return None
        elif part.target is _aten.add.Tensor and part.kwargs.get("alpha", 1) == 1:
            if part is not node and only_user(part) is None:
                return None
            pending += part.args[:2]
        elif _pair(part)[0] is not None and only_user(part) is not None:
            leaves.append(part)
        else:
            return None
    shapes = [value(leaf) for leaf in (*leaves, node)]
    alike = all(a is not None and shapes[0] is not None and same_shape(a, shapes[0]) for a in shapes)
    return leaves if alike else None
