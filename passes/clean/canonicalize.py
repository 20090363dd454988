"""canonicalize: one plain form of a graph, without the no-ops and assertions of tracing, and with one spelling for each operator.

    slice(x, d, 0, end)            -> x                 when it takes everything
    to(x, dtype), type_as, ...     -> x                 when nothing changes
    dropout(x, p, False)           -> x
    clone, contiguous, alias, detach, lift_fresh_copy -> x   when strides stay as they are
    view, reshape, expand, flatten, squeeze, permute  -> x   when the shape and the strides stay as they are
    reshape(reshape(x, a), b)      -> reshape(x, b)
    cat([x]), split(x, n, d)[0]    -> x                 when there is one part only
    cat(split(x, n, d), d)         -> x                 see `joined_parts`
    x * 1, x / 1                   -> x
    _assert_tensor_metadata, _assert_scalar(True) -> nothing
    multiply, view, flatten, transpose, pow(x, 2), ... -> mul, reshape, permute, square, ...   see `spelling`

Requires: functional. Establishes: canonical. Exactness: EXACT.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.ir.op_sets import (
    BROADCASTS,
    CASTS,
    COPIES,
    DROPOUTS,
    JOINS,
    RESHAPES,
    SCALINGS,
    SIZED_RESHAPES,
    SQUEEZES,
)
from recfx.ir.program import Program
from recfx.ir.verify import Level
from recfx.passes._match import argument, is_eval_dropout, same_layout, value
from recfx.passes.clean.assertions import holds, uses_of_numbers
from recfx.passes.clean.joined_parts import join_of_parts, only_part
from recfx.passes.clean.spelling import SPELLINGS
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, property_check, register, run_pass

_aten = torch.ops.aten

_CONVERSIONS = (
    *CASTS,
    _aten.to.dtype_layout,
    _aten.to.device,
    _aten.to.other,
    _aten.type_as.default,
    *COPIES,
    _aten.lift_fresh_copy.default,
)
_RESHAPES = (
    *RESHAPES,
    *SQUEEZES,
    *BROADCASTS,
    _aten.view_as.default,
    _aten.reshape_as.default,
    _aten.permute.default,
    _aten.transpose.int,
    _aten.slice.Tensor,
    _aten.cat.default,
)
_ASSERTIONS = (_aten._assert_tensor_metadata.default, _aten._assert_scalar.default)


@register
class Canonicalize(Pass):
    """Removes no-op slices, casts, reshapes and dropout, assertions that hold and dead code; gives each operator one spelling."""

    spec = PassSpec(
        "canonicalize",
        "Removes operators that do nothing, and gives each of the others one spelling.",
        establishes=frozenset({"canonical"}),
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        self._drop_assertions(ctx)
        apply_rules(
            [
                ("eval-dropout", DROPOUTS, _eval_dropout),
                ("conversion", _CONVERSIONS, _conversion),
                ("reshape", _RESHAPES, _no_reshape),
                ("reshape-of-reshape", SIZED_RESHAPES, _reshape_of_reshape),
                ("only-part", (operator.getitem,), only_part),
                *SPELLINGS,
                ("join-of-parts", JOINS, join_of_parts),
                ("times-one", SCALINGS, _times_one),
            ],
            ctx,
        )

    def _drop_assertions(self, ctx: PassContext) -> None:
        uses = functools.cache(lambda: uses_of_numbers(ctx.graph))
        for node in ctx.nodes(*_ASSERTIONS):
            held = node.target is not _aten._assert_scalar.default or holds(node.args[0], uses)
            if not held:
                ctx.miss("assertion", node, "it depends on the inputs' values")
            elif ctx.gate("assertion", node):
                ctx.graph.erase_node(node)


@property_check("canonical")
def _canonical(program: Program) -> str | None:
    _, record = run_pass(Canonicalize(), program, verify=Level.OFF)
    return f"canonicalize would still rewrite it {record.fired} time(s)" if record.fired else None


def _eval_dropout(node: fx.Node, ctx: PassContext) -> Any:
    return node.args[0] if is_eval_dropout(node) else Miss("it drops values")


def _conversion(node: fx.Node, ctx: PassContext) -> Any:
    source = node.args[0]
    before, after = value(source), value(node)
    if before is None or after is None:
        return None
    return source if same_layout(before, after) else Miss("it changes dtype, device or strides")


def _no_reshape(node: fx.Node, ctx: PassContext) -> Any:
    source: Any = node.args[0]
    if node.target is _aten.cat.default:
        if len(source) != 1:
            return None
        source = source[0]
    before, after = value(source), value(node)
    if before is None or after is None or not same_layout(before, after):
        return None
    if node.target is _aten.slice.Tensor and argument(node, 4, "step", 1) != 1:
        return None
    if node.target in SQUEEZES and not _squeezes_nothing(node, before):
        return Miss("a dimension that varies may be 1")
    if node.target in (_aten.permute.default, _aten.transpose.int) and not _keeps_order(node, before.ndim):
        return Miss("it exchanges dimensions of equal size")
    return source


def _squeezes_nothing(node: fx.Node, before: torch.Tensor) -> bool:
    """Whether the squeezed dimensions are fixed and not 1. A free dimension may be 1."""
    dims: Any = argument(node, 1, "dim", range(before.ndim))
    sizes = [before.shape[d] for d in ([dims] if isinstance(dims, int) else dims)]
    return all(isinstance(size, int) and size != 1 for size in sizes)


def _keeps_order(node: fx.Node, rank: int) -> bool:
    dims: Any = node.args[1]
    if node.target is _aten.transpose.int:
        return argument_of(node, 1, int) % rank == argument_of(node, 2, int) % rank
    return [d % rank for d in dims] == list(range(rank))


def _reshape_of_reshape(node: fx.Node, ctx: PassContext) -> Any:
    inner = node.args[0]
    if not isinstance(inner, fx.Node) or inner.target not in RESHAPES:
        return None
    sizes: Any = node.args[1]
    source = inner.args[0]
    before = value(source)
    if before is None or not before.is_contiguous():
        return Miss("the first reshape's input is not contiguous", inner)
    return ctx.call(_aten.reshape.default, source, sizes)


def _times_one(node: fx.Node, ctx: PassContext) -> Any:
    source, factor = node.args[:2]
    if not isinstance(factor, int | float) or isinstance(factor, bool) or factor != 1:
        return None
    before, after = value(source), value(node)
    if before is None or after is None or not same_layout(before, after):
        return Miss("it changes the dtype or the strides")
    return source
